"""The front desk: routes, pages and what guards them, put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from api import (
    comparison_page,
    dataset_pages,
    deletion_pages,
    description,
    frozen_page,
    image_pages,
    matrix_page,
    metrics,
    overlay_page,
    pages,
    problems,
    queue_page,
    submit_page,
)
from api.callers import Keyring, admins_only, bootstrap_token
from api.parameters import only_known
from api.rates import Rates
from api.render import STATIC
from api.routes import (
    checks,
    comparisons,
    deletions,
    experiments,
    figures,
    frozen,
    health,
    live,
    matrices,
    monitoring,
    nnunet,
    overlays,
    predictions,
    printed,
    projects,
    queues,
    runs,
    scorings,
    tokens,
    uploads,
    webhooks,
    workers,
)
from api.security import Guard
from api.watching import Watched
from store.courier import Courier
from store.database import limit_replies, limit_statements
from store.settings import settings
from store.upkeep import Upkeep


def create_app(local: bool = False) -> FastAPI:
    """The ASGI app; its settings come from the environment.

    Args:
        local: it will listen on loopback alone, so everybody is let in until there is a token.
    """
    app = FastAPI(
        title="liverseg", summary="Experiments on liver and lesion segmentation", version="1", docs_url=None,
        redoc_url=None, lifespan=_lifespan,
    )  # fmt: skip
    app.state.upkeep, app.state.courier = Upkeep(), Courier()
    rooms = (
        experiments,
        runs,
        live,
        predictions,
        scorings,
        uploads,
        checks,
        figures,
        overlays,
        comparisons,
        frozen,
        deletions,
        matrices,
        printed,
        nnunet,
        webhooks,
        workers,
        queues,
        health,
        monitoring,
    )
    for room in (
        *rooms,
        queue_page,
        submit_page,
        frozen_page,
        pages,
        comparison_page,
        matrix_page,
        overlay_page,
        dataset_pages,
        image_pages,
        deletion_pages,
    ):
        app.include_router(room.router, dependencies=[Depends(only_known)], responses=description.REFUSALS)
    for room in (projects, tokens):
        app.include_router(
            room.router, dependencies=[Depends(admins_only), Depends(only_known)], responses=description.REFUSALS
        )
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    problems.install(app)
    description.install(app)
    limit_statements(settings().statement_s)
    limit_replies(settings().statement_s + 10)
    app.state.keyring = Keyring(bootstrap_token(), local)
    app.add_middleware(
        Guard,
        keyring=app.state.keyring,
        rates=Rates(settings().rate),
        max_upload_bytes=settings().max_upload_mb << 20,
    )
    app.state.metrics, requests = metrics.registry(app.state.upkeep, app.state.courier)
    app.add_middleware(Watched, requests=requests)  # around the guard: what it refuses counts too
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.upkeep.start()
    app.state.courier.start()
    app.state.closing = asyncio.Event()
    yield
    await run_in_threadpool(app.state.upkeep.stop)
    await run_in_threadpool(app.state.courier.stop)
