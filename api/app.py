"""The front desk: routes, pages and what guards them, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from api import comparison_page, dataset_pages, image_pages, pages, problems
from api.parameters import only_known
from api.render import STATIC
from api.routes import (
    checks,
    comparisons,
    experiments,
    figures,
    health,
    nnunet,
    predictions,
    printed,
    runs,
    scorings,
    uploads,
)
from api.security import Guard
from store.settings import settings
from store.upkeep import Upkeep


def create_app() -> FastAPI:
    """The ASGI app; its settings come from the environment."""
    app = FastAPI(
        title="liverseg", summary="Experiments on liver and lesion segmentation", version="1", docs_url=None,
        redoc_url=None, lifespan=_lifespan,
    )  # fmt: skip
    app.state.upkeep = Upkeep()
    rooms = (experiments, runs, predictions, scorings, uploads, checks, figures, comparisons, printed, nnunet, health)
    for room in (*rooms, pages, comparison_page, dataset_pages, image_pages):
        app.include_router(room.router, dependencies=[Depends(only_known)])
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    problems.install(app)
    app.add_middleware(Guard, token=settings().token, max_upload_bytes=settings().max_upload_mb << 20)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.upkeep.start()
    yield
    await run_in_threadpool(app.state.upkeep.stop)
