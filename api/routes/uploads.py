"""Data sets and weights: large bodies that are streamed to a file, checked there, then stored."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import Annotated, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.parameters import check_storable
from api.problems import refused
from api.schemas import DatasetList, DatasetOut, ExperimentRuns
from liverseg_core.errors import InputError, SpecError
from liverseg_core.spec import ExperimentSpec
from store import artifacts, datasets, views
from store.database import transaction
from store.experiments import plan, submit_weights
from store.models import DEFAULT_PROJECT
from store.settings import settings
