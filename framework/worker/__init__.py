"""What a Celery worker runs for `CeleryEngine`; it is never called by hand.

``celery -A module:celery_app worker`` is enough: the module creates the engine, and the
engine's signals and its only task call the functions here by their names; see
`framework.engines.celery._worker_side`.
"""

from __future__ import annotations

try:
    from framework.worker._deliveries import deliver
    from framework.worker._signals import (
        task_revoked,
        worker_init,
        worker_process_init,
        worker_ready,
        worker_shutdown,
    )
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] == "framework":
        raise
    raise ImportError(
        "framework.worker needs Celery: install the extra 'celery' of asyncframe"
    ) from _error

__all__ = [
    "deliver",
    "task_revoked",
    "worker_init",
    "worker_process_init",
    "worker_ready",
    "worker_shutdown",
]
