"""Health: whether the process lives, and whether it should be sent requests."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from framework._manager.core import Core
from framework._manager.frameworks import find_core
from framework._manager.inside import crew_of
from framework._records import checks
from framework.http._leaving import Leaving
from framework.http._responses import answer

CHECKS: Final = ("pool", "queue", "store", "broker")


def health_router(
    *,
    prefix: str = "/health",
    unready_on: Collection[str] = ("pool",),
    shutdown_delay: float | timedelta = 0.0,
    include_in_schema: bool = False,
) -> APIRouter:
    """Return a router with two routes for health checks: ``/health/live`` and ``/health/ready``.

    Use it with ``app.include_router(health_router())``. Neither route waits for a store, a
    broker or a thread. Without access control, they tell nothing but what follows.

    ``live`` answers 200 as long as the event loop runs, so a server that does not answer should
    be restarted.

    ``ready`` answers 200 if requests should be sent to this process, and 503 if not: if the
    framework has not started or is shutting down, and on the problems in *unready_on*. The body
    is ``{"status": "ready", "problems": {}}``, where ``problems`` has a sentence for each
    problem, also for those that do not make it unready:

    - ``framework``: it has not started, or is shutting down.
    - ``pool``: so many threads run past their task's time limit that not all are replaced.
    - ``queue``: the queue is full, so that new tasks are refused.
    - ``store``: the store cannot be written.
    - ``broker``: the engine cannot reach its broker.

    Be careful with ``store`` and ``broker``. All processes share them, so if one fails, all
    processes become unready at once, and your whole app is down, including what needs no tasks.

    Args:
        prefix: The beginning of both paths: "" or a path such as ``/health``.
        unready_on: The problems on which ``ready`` answers 503.
        shutdown_delay: Seconds or a timedelta between SIGTERM and the server's shutdown, 0 or
            more. In that time the server works as before, but ``ready`` answers 503, so that load
            balancers stop sending requests before the server stops accepting them. A second
            SIGTERM ends it. Needs a server that handles signals as uvicorn does, and must be
            included in the app that the server runs, not in one that is mounted there.
        include_in_schema: Whether the routes are in the OpenAPI schema.

    Raises:
        TypeError: If a parameter is of the wrong type.
        ValueError: If *prefix* is no path, *unready_on* has an unknown problem, or
            *shutdown_delay* is negative or infinite.
    """
    unready = checks.choices("unready_on", unready_on, CHECKS)
    delay = checks.seconds("shutdown_delay", shutdown_delay, at_least=0)
    leaving = Leaving(delay)
    router = APIRouter(
        prefix=checks.path_prefix("prefix", prefix),
        tags=["health"],
        include_in_schema=checks.flag("include_in_schema", include_in_schema),
        lifespan=leaving.lifespan if delay else None,
    )

    @router.get("/live")
    @router.head("/live", include_in_schema=False)
    async def live() -> JSONResponse:
        """Answer 200: the event loop runs."""
        return answer({"status": "alive"})

    @router.get("/ready", responses={503: {"description": "Send no requests to this process."}})
    @router.head("/ready", include_in_schema=False)
    async def ready() -> JSONResponse:
        """Answer 200 if requests should be sent to this process, else 503."""
        leaving.require_entered()
        problems = _problems_of(find_core(), leaving.has_begun)
        good = not problems.keys() & {"framework", *unready}
        status = "ready" if good else "unready"
        return answer({"status": status, "problems": problems}, 200 if good else 503)

    return router


def _problems_of(core: Core | None, leaving: bool) -> dict[str, str]:
    """Return a sentence for each problem of a framework; never blocks.

    Args:
        core: The framework's core; None if it has not started.
        leaving: Whether the server is about to shut down.
    """
    if core is None:
        return {"framework": "the framework has not started: set it up in the app's lifespan"}
    found: dict[str, str] = {}
    if leaving or core.ledger.state != "running":
        found["framework"] = "the server is shutting down"
    crew, ledger = crew_of(core.pool), core.ledger
    if crew.degraded:
        found["pool"] = (
            f"{crew.abandoned} threads run past the time limit of their task, and not all of "
            "them are replaced"
        )
    if ledger.pending >= ledger.queue_size:
        found["queue"] = f"the queue is full: {ledger.queue_size} tasks may wait (queue_size)"
    faults = core.faults()
    # What the fault is goes into the log: it may name hosts and users.
    if faults.get("store"):
        found["store"] = "the store cannot be written"
    if faults.get("broker"):
        found["broker"] = "the broker cannot be reached"
    return found
