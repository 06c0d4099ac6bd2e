"""How a server with many unfinished tasks stops: ``python -m benchmarks.stopping``.

A uvicorn with a grace period of two seconds gets a signal while tasks run, wait, sleep or are
delayed. Each line gives the seconds from the signal until the process has ended, the longest
time for which the event loop did not run, how much of that one collection of garbage took,
what was written to the log, and the greatest memory of the process.

Arguments: how many tasks (10,000 and 100,000 if none are given), kinds of tasks (all if none are
given), and after ``--store`` the URL of a database. ``1000000 queued`` takes a minute and two
gigabytes; a million coroutines take up to seven.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from framework import (
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
    throttled_task,
)

MODULE = "benchmarks.stopping"
COUNTS = (10_000, 100_000)
GRACE = 2.0
WAITERS = 1_000
"""Coroutines that wait for results of the latest tasks."""

_HOUR = 3_600.0
_FULL = threading.Event()


@background_task
def hold() -> None:
    """Hold a thread until the process ends."""
    _FULL.wait()


@background_task
def queued(number: int) -> int:
    """Return *number*."""
    return number


@background_task
async def suspended(_: int) -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


@background_task
async def stubborn(_: int) -> None:
    """Wait, whatever happens."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


@background_task
@throttled_task(rate_limit=1, time_window=_HOUR, when_limited="wait")
async def throttled(number: int) -> int:
    """Return *number*, once an hour."""
    return number


@background_task
@retry_task(retry_delay=_HOUR)
async def retried(number: int) -> None:
    """Fail, an hour before the next attempt."""
    raise ValueError(number)


def _behind_others(submit: Callable[[int], object]) -> Callable[[int], object]:
    """Return *submit* for tasks that find all four threads at work."""

    def behind(number: int) -> object:
        if number < _WORKERS:
            hold()
        return submit(number)

    return behind


_WORKERS: Final = 4
KINDS: Mapping[str, Callable[[int], object]] = {
    "queued": _behind_others(queued),
    "with hooks": _behind_others(queued.options(on_complete=str, on_error=str)),
    "delayed": queued.options(delay=_HOUR),
    "coroutines": suspended,
    "stubborn coroutines": stubborn,
    "throttled": throttled,
    "waiting to retry": retried,
}
"""How tasks are submitted that are unfinished when the signal comes, by name."""


def measured(kind: str, count: int, url: str, number: signal.Signals) -> dict[str, Any]:
    """Serve *count* tasks in a process, send it a signal, and return what came of it.

    Args:
        kind: One of `KINDS`.
        count: How many tasks.
        url: The database of the store; "" for memory.
        number: The signal.
    """
    command = [sys.executable, "-m", MODULE, "--serve", kind, str(count), url]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "Uvicorn running on" in line:
                break
        else:
            raise RuntimeError("".join(lines[-20:]))
        begin, lines = perf_counter(), []
        process.send_signal(number)
        lines = list(process.stdout)
        _, _, used = os.wait4(process.pid, 0)
        took = perf_counter() - begin
    (told,) = [line for line in lines if line.startswith("{")]
    written = [line.rstrip() for line in lines if line is not told]
    return {
        **json.loads(told),
        "seconds": took,
        "lines": len(written),
        "longest": max(map(len, written)),
        "megabytes": used.ru_maxrss / 1024,
    }


class _Watch:
    """Measures how long the loop and the garbage collector take, until it is stopped."""

    def __init__(self) -> None:
        self.blocked = self.collected = 0.0
        self._loop = asyncio.get_running_loop()
        self._latest = self._collecting = perf_counter()
        self._timer = self._loop.call_soon(self._beat)
        gc.callbacks.append(self._note)

    def _beat(self) -> None:
        now = perf_counter()
        self.blocked = max(self.blocked, now - self._latest)
        self._latest = now
        self._timer = self._loop.call_later(0.001, self._beat)

    def _note(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = perf_counter()
        else:
            self.collected = max(self.collected, perf_counter() - self._collecting)

    def stop(self) -> None:
        """Measure no more."""
        self._timer.cancel()
        gc.callbacks.remove(self._note)


def serve(kind: str, count: int, url: str) -> None:
    """Serve an app with *count* tasks until a signal comes; print what was measured as JSON."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings: dict[str, Any] = {"max_workers": _WORKERS, "queue_size": 2 * count}
        if url:
            from framework.stores.sql import SQLStore

            settings["store"] = SQLStore(url)
        async with setup_async_framework(app, graceful_shutdown_timeout=GRACE, **settings):
            manager = get_task_manager()
            submit = KINDS[kind]
            ids = [str(submit(number)) for number in range(count)]
            waits = [asyncio.ensure_future(manager.get_result(one)) for one in ids[-WAITERS:]]
            del ids
            yield
            watch = _Watch()
        watch.stop()
        await asyncio.wait(waits)
        # Read, or asyncio would log each of them.
        left = sum(one.exception() is None for one in waits)
        told = {"blocked": watch.blocked, "collected": watch.collected, "results": left}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()

    uvicorn.run(FastAPI(lifespan=lifespan), port=0, log_level="info")


HEAD = (
    "| tasks | kind | signal | until the end, s | loop blocked, ms | of that one collection, ms | "
    "log lines | longest line | memory, MB |"
)


def as_row(kind: str, count: int, number: signal.Signals, found: Mapping[str, Any]) -> str:
    """Return one line of the table."""
    cells = [
        f"{count:,}",
        kind,
        number.name,
        f"{found['seconds']:.2f}",
        f"{found['blocked'] * 1e3:.0f}",
        f"{found['collected'] * 1e3:.0f}",
        f"{found['lines']:,}",
        f"{found['longest']:,}",
        f"{found['megabytes']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    """Print the table."""
    url = ""
    if "--store" in arguments:
        at = arguments.index("--store")
        url = arguments[at + 1]
        del arguments[at : at + 2]
    counts = [int(one) for one in arguments if one.isdecimal()] or COUNTS
    kinds = [one for one in arguments if one in KINDS] or KINDS
    sys.stdout.write(f"{HEAD}\n|{' --- |' * (HEAD.count('|') - 1)}\n")
    for count in counts:
        for kind in kinds:
            # Both signals for the first kind: uvicorn treats them alike until its very end.
            signals = [signal.SIGTERM, signal.SIGINT] if kind == "queued" else [signal.SIGTERM]
            for number in signals:
                found = measured(kind, count, url, number)
                sys.stdout.write(as_row(kind, count, number, found) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main(sys.argv[1:])
