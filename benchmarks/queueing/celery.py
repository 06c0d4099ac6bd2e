"""Celery on a Redis that writes each command to the disk; a message is acknowledged at the end.

Its workers have threads, since a process for each of twenty places would cost more.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks.queueing import _marks


def _made() -> Any:  # Any: of a package that may not be installed
    app = import_module("celery").Celery("queueing", broker=os.environ[_marks.URL])
    app.conf.update(task_ignore_result=True, task_acks_late=True, worker_hijack_root_logger=False)
    app.task(name="note")(_marks.note)
    return app


def prepare() -> None:
    """Do nothing: there are no tables."""


@asynccontextmanager
async def submitting() -> AsyncIterator[_marks.Submit]:
    """Send messages, on the loop's own thread."""
    app = _made()
    send = app.tasks["note"].delay

    async def one(number: int) -> None:
        send(number)

    async def many(numbers: Sequence[int]) -> None:
        for number in numbers:
            send(number)

    yield _marks.Submit(one, many)
    app.close()


def left() -> int:
    """Return how many messages are in the queue, or not acknowledged."""
    with import_module("redis").Redis.from_url(os.environ[_marks.URL]) as client:
        return int(client.llen("celery")) + int(client.hlen("unacked"))


def work() -> None:
    """Run a worker."""
    import_module("celery.signals").worker_ready.connect(lambda **_: _marks.ready(), weak=False)
    options = ["--pool", "threads", "--concurrency", str(_marks.PLACES), "--loglevel", "ERROR"]
    _made().worker_main(["worker", *options])
