"""The engine whose tasks run on Celery workers; needs the extra ``celery`` of asyncframe."""

from __future__ import annotations

from framework._records import exports

try:
    from framework.engines.celery._engine import CeleryEngine
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] == "framework":
        raise
    raise ImportError(
        "framework.engines.celery needs Celery and the Redis client: "
        "install the extra 'celery' of asyncframe"
    ) from _error

__all__ = ["CeleryEngine"]

exports.pin(globals())
