"""What a Celery worker of a test runs: an engine, and the functions of the test's app.

``celery -A MODULE:celery_app worker``, MODULE being this one, prints the names of the functions as
`working` does; `environment` returns what it is told.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any, Final

from celery import Celery

from framework.engines.celery import CeleryEngine
from framework.testing import registered_functions
from pytest_asyncframe._backends.processes.working import KNOWN, import_module

_VARIABLE: Final = "ASYNCFRAME_CELERY_SIDE"

_LIMIT: Final = 60.0
"""Limit in seconds of tasks without one of their own."""

_MOST: Final = 3_600.0
"""The longest limit in seconds that a task may have."""


def engine_at(url: str, name: str) -> CeleryEngine:
    """Return an engine on a Redis.

    Args:
        url: Where the Redis is.
        name: What its queue and its states are called there.
    """
    app: Any = Celery(name, broker=url)
    app.conf.update(worker_hijack_root_logger=False, worker_send_task_events=False)
    return CeleryEngine(
        app, default_limit=_LIMIT, max_limit=_MOST, namespace=name, result_ttl=_MOST
    )


def environment(url: str, name: str, app: str, file: str) -> dict[str, str]:
    """Return what tells a worker its engine and its app; see `engine_at` and `working`."""
    return {_VARIABLE: json.dumps([url, name, app, file])}


def _end_with_the_test() -> None:
    """End this worker when nobody holds the other end of its input any more."""
    # Not by `sys.stdin`, whose lock a forked child would wait for.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if _VARIABLE in os.environ:
    _url, _name, _app, _file = json.loads(os.environ[_VARIABLE])
    import_module(_app.partition(":")[0], _file)
    celery_app = engine_at(_url, _name).app
    print(f"{KNOWN}{json.dumps(sorted(registered_functions()))}", flush=True)  # noqa: T201
    threading.Thread(target=_end_with_the_test, daemon=True).start()
