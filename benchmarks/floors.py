"""What CPython allows: the standard thread pool, and sketches that skip all but the work.

The sketches are no products: no cancellation, no limits, no races at shutdown handled.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import Any, TypeAlias

THREADS = 4

STDLIB = "ThreadPoolExecutor.submit"
L0 = "SimpleQueue alone (L0)"
SKETCH = "full sketch"


class Work:
    """Functions for a subject to run; they count, so that no run is missed or made up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._runs = itertools.count(1).__next__
        self._due = 0
        self._done = asyncio.Event()
        answers = itertools.count().__next__

        def touch() -> None:
            if self._runs() == self._due:
                self._loop.call_soon_threadsafe(self._done.set)

        async def touch_on_loop() -> None:
            if self._runs() == self._due:
                self._done.set()

        def answer() -> int:
            return answers()

        async def answer_on_loop() -> int:
            return answers()

        self.touch = touch
        self.touch_on_loop = touch_on_loop
        self.answer = answer
        self.answer_on_loop = answer_on_loop

    def expect(self, runs: int) -> None:
        """Say how many runs of a touch follow; before any of them."""
        self._due += runs
        self._done.clear()

    async def wait(self, timeout: float = 60.0) -> None:
        """Wait, at most *timeout* seconds, until they have run."""
        await asyncio.wait_for(self._done.wait(), timeout)

    def verify(self) -> None:
        """Raise if there were more or fewer runs than expected; once, at the end."""
        runs = self._runs() - 1
        if runs != self._due:
            raise RuntimeError(f"{self._due} tasks were submitted and {runs} have run")


@dataclass(frozen=True)
class Calls:
    """How a subject is used, and how often it can be in a reasonable time.

    Attributes:
        submit: Submits a touch; None to leave submission out.
        round_trip: Gives something to await for an answer; None to leave it out.
        awaited: Whether what *submit* returns is to be awaited.
        burst: Tasks in a burst.
        round_trips: Round trips of one submitter.
        check: Called with what *submit* returned for the tasks of the last burst, while
            the subject is still up; None for nothing to check.
    """

    submit: Callable[[], Any] | None = None
    round_trip: Callable[[], Awaitable[int]] | None = None
    awaited: bool = False
    burst: int = 10_000
    round_trips: int = 1_500
    check: Callable[[list[Any]], None] | None = None


Subject: TypeAlias = Callable[[Work], AbstractAsyncContextManager[Calls]]
"""Something that runs functions in the background, up for as long as its context lasts."""


@asynccontextmanager
async def stdlib(work: Work) -> AsyncIterator[Calls]:
    """The standard pool, whose futures are wrapped as ``loop.run_in_executor`` does it."""
    with ThreadPoolExecutor(THREADS) as pool:
        submit = pool.submit
        yield Calls(
            submit=partial(submit, work.touch),
            round_trip=lambda: asyncio.wrap_future(submit(work.answer)),
        )


@asynccontextmanager
async def queue_alone(work: Work) -> AsyncIterator[Calls]:
    """Threads on a `SimpleQueue`, fire and forget: the least that crosses threads."""
    queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    def serve() -> None:
        for call in iter(queue.get, None):
            call()

    threads = _started([serve] * THREADS)
    yield Calls(submit=partial(queue.put, work.touch))
    for _ in threads:
        queue.put(None)
    for thread in threads:
        thread.join()


class Record:
    """A task of the sketch; times are seconds of `perf_counter`."""

    __slots__ = (
        "task_id", "name", "fn", "args", "kwargs", "context",
        "status", "outcome", "submitted", "started", "ended", "waiter",
    )  # fmt: skip

    def __init__(
        self, task_id: str, name: str, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        self.task_id = task_id
        self.name = name
        self.fn: Callable[..., Any] | None = fn
        self.args = args
        self.kwargs = kwargs
        self.context: contextvars.Context | None = contextvars.copy_context()
        self.status = "pending"
        self.outcome: Any = None
        self.submitted = perf_counter()
        self.started = self.ended = 0.0
        self.waiter: asyncio.Future[Any] | None = None


class Sketch:
    """All that a tracked task needs on its way, and nothing for when things go wrong.

    An id, a record in a registry, a copy of the context, three times, counters, the newest
    finished tasks kept, and results that can be awaited. Threads are woken once per turn of
    the loop, and the loop once for a batch of results.
    """

    def __init__(self, *, keep: int = 100_000) -> None:
        self._loop = asyncio.get_running_loop()
        self._keep = keep
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count().__next__
        self._queue: SimpleQueue[Record | None] = SimpleQueue()
        self._submitted: list[Record] = []
        self._ended: deque[Record] = deque()
        self._answered: deque[Record] = deque()
        self._drain_due = False
        self.tasks: dict[str, Record] = {}
        self.counters = [{"completed": 0, "failed": 0, "busy": 0.0} for _ in range(THREADS)]
        self._threads = _started([partial(self._serve, counters) for counters in self.counters])

    def background(self, fn: Callable[..., Any]) -> Callable[..., str]:
        """Make a call of *fn* return an id."""
        name, take_in, call_soon = fn.__qualname__, self._take_in, self._loop.call_soon

        def inner(*args: Any, **kwargs: Any) -> str:
            record = take_in(name, fn, args, kwargs)
            if not self._submitted:
                call_soon(self._flush)
            self._submitted.append(record)
            return record.task_id

        return inner

    def awaitable(self, fn: Callable[..., Any]) -> Callable[..., asyncio.Future[Any]]:
        """Make a call of *fn* return a future."""
        name, take_in, make = fn.__qualname__, self._take_in, self._loop.create_future

        def inner(*args: Any, **kwargs: Any) -> asyncio.Future[Any]:
            record = take_in(name, fn, args, kwargs)
            record.waiter = waiter = make()
            self._queue.put(record)
            return waiter

        return inner

    def close(self) -> None:
        """End the threads once they have run what is queued."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _take_in(self, name: str, fn: Callable[..., Any], args: Any, kwargs: Any) -> Record:
        task_id = f"{self._prefix}{self._numbers():08x}"
        record = self.tasks[task_id] = Record(task_id, name, fn, args, kwargs)
        return record

    def _flush(self) -> None:
        records, self._submitted = self._submitted, []
        for record in records:
            self._queue.put(record)

    def _serve(self, counters: dict[str, float]) -> None:
        for record in iter(self._queue.get, None):
            record.started = perf_counter()
            record.status = "running"
            assert record.context is not None
            assert record.fn is not None
            try:
                record.outcome = record.context.run(record.fn, *record.args, **record.kwargs)
                record.status = "completed"
            except BaseException as error:  # kept for whoever waits
                record.outcome = error
                record.status = "failed"
            record.ended = perf_counter()
            counters[record.status] += 1
            counters["busy"] += record.ended - record.started
            record.fn = record.args = record.kwargs = record.context = None
            self._retain(record)

    def _retain(self, record: Record) -> None:
        self._ended.append(record)
        if len(self._ended) > self._keep:
            del self.tasks[self._ended.popleft().task_id]
        if record.waiter is None:
            return
        self._answered.append(record)
        if not self._drain_due:
            self._drain_due = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        # Cleared first: an answer from now on schedules a drain of its own.
        self._drain_due = False
        while self._answered:
            record = self._answered.popleft()
            waiter = record.waiter
            if waiter is None or waiter.done():
                continue
            if record.status == "completed":
                waiter.set_result(record.outcome)
            else:
                waiter.set_exception(record.outcome)


@asynccontextmanager
async def full_sketch(work: Work) -> AsyncIterator[Calls]:
    """The sketch with every feature of the way from submission to result."""
    sketch = Sketch()

    def check(ids: list[str]) -> None:
        if len({sketch.tasks[task_id] for task_id in ids}) != len(ids):
            raise RuntimeError("tasks of the sketch share a record")

    yield Calls(
        submit=sketch.background(work.touch),
        round_trip=sketch.awaitable(work.answer),
        check=check,
    )
    sketch.close()
    if sum(counters["failed"] for counters in sketch.counters):
        raise RuntimeError("tasks of the sketch have failed")


def _started(bodies: list[Callable[[], None]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=body, daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    return threads


FLOORS: dict[str, Subject] = {STDLIB: stdlib, L0: queue_alone, SKETCH: full_sketch}
"""By name."""
