"""The worker's side of the engine, found by name.

These are names and not imports for two reasons. `framework.worker` runs tasks with the whole
framework, so it stands above the engines, and imports point down. And an app that submits
tasks never needs it: it is imported in workers, by the first name that is looked up.
"""

from __future__ import annotations

from typing import Any, Final

from celery import signals
from celery.utils.imports import symbol_by_name

_WORKER: Final = "framework.worker"

SIGNALS: Final = (
    "worker_init",
    "worker_ready",
    "worker_process_init",
    "worker_shutdown",
    "task_revoked",
)
"""Celery's signals; each has a function of the same name there."""

REQUEST: Final = f"{_WORKER}._request:RemoteRequest"
"""The request class of our tasks; Celery itself looks it up."""

STRATEGY: Final = f"{_WORKER}._request:by_function"
"""What takes messages of the general task; Celery itself looks it up."""


def deliver(engine: object, task: object, message: object) -> Any:
    """Run one delivery of a Celery task; see `framework.worker`."""
    return symbol_by_name(f"{_WORKER}:deliver")(engine, task, message)


def connect_signals(engine: object) -> None:
    """Connect the functions of the worker's side to Celery's signals."""
    for name in SIGNALS:
        _connect(name, engine)


def _connect(name: str, engine: object) -> None:
    def receive(sender: Any = None, request: Any = None, **_: Any) -> None:
        # A revoked task's signal has its request beside the sender; the others have one.
        about = sender if request is None else request
        symbol_by_name(f"{_WORKER}:{name}")(engine, about)

    getattr(signals, name).connect(receive, weak=False)
