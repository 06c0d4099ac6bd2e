"""What a task may cost, counted and not timed: wake-ups, locks, futures, system calls.

Each count is one that the figures of the benchmarks stand on, so a change that would spoil
them fails here, on a machine however busy.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import pytest

from framework import (
    TaskManager,
    ThreadPoolExecutorEnhanced,
    async_task,
    background_task,
    get_task_manager,
    protocols,
    retry_task,
)
from framework._manager import submitting
from framework._manager.core import Core
from framework._records import ids
from framework._records.ids import random_id
from framework._records.records import TaskEvent
from framework._running import events, results, waits
from framework._tasks import functions
from framework._tasks.live import live
from framework._threads import waiters
from framework._threads.clock import SystemClock
from framework._threads.pool_threads import PoolThread
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from tests.patience import PATIENCE

BURST = 100


class CountingLock:
    """A lock that knows how often it was taken."""

    def __init__(self, lock: Any) -> None:  # Any: locks have no common type
        self._lock = lock
        self.taken = 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self.taken += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


class Counter:
    """Stands in for a function: counts its calls and makes them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.calls = 0
        self.threads: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make one call."""
        self.calls += 1
        self.threads.append(threading.get_ident())
        return self._function(*args, **kwargs)


class Ends:
    """A sink that says when a number of tasks have ended."""

    def __init__(self, manager: TaskManager) -> None:
        self._left = 0
        self._all = threading.Event()
        self._lock = threading.Lock()
        self._unsubscribe = manager.subscribe(self, kinds={"completed"})

    def expect(self, count: int) -> None:
        """Begin to count; nothing may be running."""
        self._left = count
        self._all.clear()

    def __call__(self, event: object) -> None:
        """Count one."""
        with self._lock:
            self._left -= 1
            if not self._left:
                self._all.set()

    def wait(self) -> None:
        """Block until so many tasks have ended."""
        assert self._all.wait(PATIENCE)


class Turn:
    """Awaited, lets the loop have one turn."""

    def __await__(self) -> Generator[None, None, None]:
        """Yield once, as a bare ``yield`` of a coroutine does."""
        yield


def core_of(manager: TaskManager) -> Core:
    """Return the parts of a manager."""
    return manager._core


def nothing() -> None:
    """Do nothing."""


@pytest.fixture
def bare_manager() -> Iterator[TaskManager]:
    """Give a manager as apps have it, for which no time passes on a machine that is busy."""
    # Not the plugin's `task_manager`, which adds a sink and an interceptor. A clock of any
    # other class would have the ledger keep account of what is queued.
    clock = SystemClock()
    clock.monotonic = lambda: 0.0
    with override_framework(clock=clock) as manager:
        yield manager
    clock.close()


# -- submitting


async def test_a_burst_wakes_the_pool_once(
    bare_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred submissions of one turn of the loop are one hand-over and one wake-up of it."""
    crew, ends = bare_manager.pool._crew, Ends(bare_manager)
    put_all, wake = Counter(crew.put_all), Counter(crew.queue.wake_one)
    monkeypatch.setattr(crew, "put_all", put_all)
    monkeypatch.setattr(crew.queue, "wake_one", wake)
    ends.expect(BURST)
    for _ in range(BURST):
        bare_manager.submit_nowait(nothing)
    assert put_all.calls == wake.calls == 0
    await Turn()
    ends.wait()
    assert put_all.calls == 1
    assert wake.threads.count(threading.get_ident()) <= 1


async def test_locks_of_a_task(bare_manager: TaskManager) -> None:
    """A submission takes the ledger's lock once, a run twice; a burst the pool's lock once."""
    ledger, crew = core_of(bare_manager).ledger, bare_manager.pool._crew
    ends = Ends(bare_manager)
    await bare_manager.submit(nothing, wait=True)
    own = ledger.lock, crew.lock
    book, threads = CountingLock(ledger.lock), CountingLock(crew.lock)
    ledger.lock, crew.lock = book, threads  # type: ignore[assignment]
    try:
        ends.expect(BURST)
        for _ in range(BURST):
            bare_manager.submit_nowait(nothing)
        submitting = book.taken, threads.taken
        await Turn()
        ends.wait()
    finally:
        ledger.lock, crew.lock = own
    assert submitting == (BURST, 0)
    assert (book.taken, threads.taken) == (3 * BURST, 1)


async def test_a_loop_that_is_held_up_keeps_no_task_waiting(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """Without a turn of the loop tasks start at a submission 100 ms after the first."""
    started = threading.Event()
    task_ids = [task_manager.submit_nowait(started.set)]
    for gap in (0.099, 0.002):
        assert not started.is_set()
        task_clock.advance(gap)
        task_ids.append(task_manager.submit_nowait(nothing))
    assert started.wait(PATIENCE)
    await asyncio.gather(*map(task_manager.get_result, task_ids))


def test_ids_are_read_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """For 512 ids the operating system is asked twice."""
    monkeypatch.setattr(ids, "_SPARE", [])
    urandom = Counter(os.urandom)
    monkeypatch.setattr(os, "urandom", urandom)
    assert len({random_id() for _ in range(512)}) == 512
    assert urandom.calls == 2


# -- what is made for those who ask, and only then


async def test_no_future_unless_somebody_waits(
    bare_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that nobody waits for makes no future and no waiter."""
    loop, ends = asyncio.get_running_loop(), Ends(bare_manager)
    counters = []
    for owner, name in (
        (loop, "create_future"),
        (results, "LoopWaiter"),
        (results, "ThreadWaiter"),
        (concurrent.futures.Future, "__init__"),
    ):
        counter = Counter(getattr(owner, name))
        monkeypatch.setattr(owner, name, counter)
        counters.append(counter)
    ends.expect(BURST)
    for _ in range(BURST):
        bare_manager.submit_nowait(nothing)
    await Turn()
    ends.wait()
    assert [counter.calls for counter in counters] == [0, 0, 0, 0]


async def test_no_event_unless_somebody_hears(
    bare_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a sink no event is made; with one, only events of the kinds that it asked for."""
    made = Counter(TaskEvent)
    monkeypatch.setattr(events, "TaskEvent", made)
    task_id = await bare_manager.submit(nothing)
    await bare_manager.get_result(task_id)
    assert made.calls == 0
    record = core_of(bare_manager).ledger.find(task_id)
    assert record is not None
    assert live(record).outbox is None
    bare_manager.subscribe(lambda _: None, kinds={"started", "failed"})
    await bare_manager.submit(nothing, wait=True)
    assert made.calls == 1


# -- completing


async def test_the_loop_is_woken_once_for_many_results(
    bare_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight results that come while the loop is busy wake it once."""
    loop, gate, posted = asyncio.get_running_loop(), threading.Event(), threading.Semaphore(0)
    post = waiters.Mailbox.post

    def telling_post(box: waiters.Mailbox, call: Callable[[], object]) -> bool:
        sent = post(box, call)
        posted.release()
        return sent

    @async_task
    def work() -> bool:
        return gate.wait(PATIENCE)

    waits = [asyncio.create_task(work()) for _ in range(8)]
    # One turn for the submissions, one for their hand-over.
    await Turn()
    await Turn()
    monkeypatch.setattr(waiters.Mailbox, "post", telling_post)
    wakes = Counter(loop.call_soon_threadsafe)
    monkeypatch.setattr(loop, "call_soon_threadsafe", wakes)
    gate.set()
    for _ in waits:
        assert posted.acquire(timeout=PATIENCE)
    assert wakes.calls == 1
    assert await asyncio.gather(*waits) == [True] * 8


async def test_a_coroutine_in_place_makes_nothing_of_the_loops(
    bare_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with a limit that is not suspended makes no asyncio task, no timer and no future."""

    @async_task(timeout=5.0)
    async def plain() -> int:
        return 7

    loop = asyncio.get_running_loop()
    counters = []
    for name in ("create_task", "create_future", "call_soon", "call_later", "call_at"):
        counter = Counter(getattr(loop, name))
        monkeypatch.setattr(loop, name, counter)
        counters.append(counter)
    call_at = Counter(bare_manager.clock.call_at)
    monkeypatch.setattr(bare_manager.clock, "call_at", call_at)
    assert await plain() == 7
    assert [counter.calls for counter in (*counters, call_at)] == [0] * 6


# -- threads


class ParkedList(list[PoolThread]):
    """The list of parked threads; knows when *count* are in it."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count
        self.full = threading.Event()

    def append(self, worker: PoolThread) -> None:
        """Add a thread that is about to wait."""
        super().append(worker)
        if len(self) == self._count:
            self.full.set()


class SlowGate:
    """A thread's gate: the thread hears of its release only once *open* is set."""

    def __init__(self, gate: threading.Lock) -> None:
        self._gate = gate
        self.released = 0
        self.open = False

    def acquire(self) -> None:
        """Wait."""
        self._gate.acquire()

    def release(self) -> None:
        """Note the release, and let it through if it may be heard."""
        self.released += 1
        if self.open:
            self._gate.release()

    def let_through(self) -> None:
        """Let the thread hear of what it has not heard yet, and of all that comes."""
        self.open = True
        if self.released:
            self._gate.release()


def test_while_a_thread_comes_no_other_is_woken() -> None:
    """Two items wake one of two threads; it wakes the other when it takes the first of them."""
    # 1 both threads are parked, 2 two items are put in, 3 the woken thread arrives, 4 its
    # item goes on until the other one runs.
    pool = ThreadPoolExecutorEnhanced(2)
    crew = pool._crew
    crew.queue.parked = parked = ParkedList(2)
    meeting = threading.Barrier(2)
    for _ in range(2):
        pool.submit(meeting.wait, PATIENCE)
    assert parked.full.wait(PATIENCE)
    gates = [SlowGate(worker.gate) for worker in crew.threads]
    for worker, gate in zip(crew.threads, gates, strict=True):
        worker.gate = gate  # type: ignore[assignment]
    futures = [pool.submit(meeting.wait, PATIENCE) for _ in range(2)]
    assert sorted(gate.released for gate in gates) == [0, 1]
    for gate in gates:
        gate.let_through()
    assert sorted(future.result(PATIENCE) for future in futures) == [0, 1]
    pool.shutdown()


def plain() -> None:
    """Do nothing."""


class Plain:
    """A class whose objects and methods do nothing."""

    def __call__(self) -> None:
        """Do nothing."""

    def method(self) -> None:
        """Do nothing."""


decorated = background_task(plain)
retried = retry_task(plain)

WAYS: dict[str, Callable[[TaskManager], str]] = {
    "undecorated": lambda manager: manager.submit_nowait(plain),
    "lambda": lambda manager: manager.submit_nowait(lambda: None),
    "method": lambda manager: manager.submit_nowait(Plain().method),
    "object": lambda manager: manager.submit_nowait(Plain()),
    "partial": lambda manager: manager.submit_nowait(partial(plain)),
    "builtin": lambda manager: manager.submit_nowait(os.getpid),
    "builtin method": lambda manager: manager.submit_nowait([].copy),
    "descriptor": lambda manager: manager.submit_nowait(str.upper, args=("a",)),
    "retried": lambda manager: manager.submit_nowait(retried),
    "timeout": lambda manager: manager.submit_nowait(decorated, timeout=5),
    "description": lambda manager: manager.submit_nowait(plain, description="a text"),
    "options": lambda _: decorated.options(timeout=7, name="of its own")(),
}


def test_no_label_for_each_call(task_manager: TaskManager) -> None:
    """However a function is submitted, its tasks share one heading, which each kept one has."""
    headings: dict[str, set[int]] = {}
    for way, submit in WAYS.items():
        for _ in range(3):
            record = task_manager._core.ledger.find(submit(task_manager))
            assert record is not None
            headings.setdefault(way, set()).add(id(record.heading))
    assert {way: len(found) for way, found in headings.items()} == dict.fromkeys(WAYS, 1)


def test_a_signature_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a function is submitted, in whatever way, its signature is read once."""
    calls = {}
    for way, submit in WAYS.items():
        with override_framework() as manager, monkeypatch.context() as patch:
            submit(manager)
            read = Counter(functions.signature_of)
            patch.setattr(functions, "signature_of", read)
            for _ in range(3):
                submit(manager)
            calls[way] = read.calls
    assert calls == dict.fromkeys(WAYS, 0)


numbers = count()

ABILITIES: dict[str, Callable[[], object]] = {
    "none": decorated,
    "priority": decorated.options(priority="high"),
    "hook": decorated.options(on_complete=id),
    "delay": decorated.options(delay=60),
    "max_running": decorated.options(max_running=9),
    "unique": background_task(unique=lambda: next(numbers))(plain),
    "task_id": lambda: get_task_manager().submit_nowait(plain, task_id=str(next(numbers))),
    "owner": decorated.options(owner="ada"),
    "owner's": decorated,
}
"""What is called, by the ability that the submission needs; the last two make all others dearer."""

ROOMS = {Path(str(room.__file__)).parent for room in (submitting, waits)}


async def test_calls_of_a_submission(bare_manager: TaskManager) -> None:
    """How many functions a submission calls depends on what it needs, and on nothing else.

    Those on its path count, and of what waits for a place or its time; and a generator counts
    each time when it goes on.
    """
    called: list[str] = []
    # The loop has no turn meanwhile, so no task ends before its submission.

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and Path(frame.f_code.co_filename).parent in ROOMS:
            called.append(frame.f_code.co_name)

    found = {}
    for ability, submit in ABILITIES.items():
        for _ in range(3):  # what the first ones find out, the others know
            called.clear()
            before = sys.getprofile()
            sys.setprofile(note)
            try:
                submit()
            finally:
                sys.setprofile(before)
        found[ability] = len(called)
    assert found == {
        "none": 4,
        "priority": 9,
        "hook": 5,
        "delay": 10,
        "max_running": 22,
        "unique": 28,
        "task_id": 15,
        "owner": 8,
        "owner's": 6,
    }


def test_a_copy_with_other_options_is_freed_at_once() -> None:
    """A copy is no part of a cycle, so a request that makes one leaves nothing to collect."""
    copy = decorated.options(timeout=7)
    gone = weakref.ref(copy)
    gc.disable()
    try:
        del copy
        assert gone() is None
    finally:
        gc.enable()


def test_a_framework_checks_no_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework in memory, and a sink, are made without a check of an optional protocol.

    Before Python 3.12 each takes 12 us, and a test with a fixture of the plugin makes a framework.
    """
    checked: list[str] = []
    kind: Any = type(protocols.TaskTracer)
    real = kind.__instancecheck__

    def check(cls: type, instance: object) -> bool:
        checked.append(cls.__name__)
        return bool(real(cls, instance))

    monkeypatch.setattr(kind, "__instancecheck__", check)
    with override_framework() as manager:
        manager.subscribe(lambda _: None)

    assert [name for name in checked if name in protocols.__all__] == []
