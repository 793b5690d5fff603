"""Numbers for a monitoring system."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "as Prometheus reads it"}
    },
)
def metrics(request: Request) -> Response:
    """Queue, attempts, workers, store, requests and this process, in Prometheus' text format; any token may ask.

    A help text beginning with *Everywhere* tells a number of the whole installation, the same from each API process.
    """
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_PLAIN_0_0_4)
