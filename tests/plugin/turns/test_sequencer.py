"""Details of the sequencer: timers of all kinds, sockets, and turns drawn from a seed."""

from __future__ import annotations

import asyncio
import gc
import queue
import re
import selectors
import socket
import threading
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_asyncframe._turns.activity import BEGINNING, GONE, activity, glance
from pytest_asyncframe._turns.actors import TestEndedError, Timer
from pytest_asyncframe._turns.roster import Roster
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe._turns.turns import POLL_INTERVAL
from pytest_asyncframe.clock import VirtualClock, VirtualDeadlockError
from pytest_asyncframe.clock._loop import VirtualLoop
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE
from tests.plugin.clock.waits import SEES_THREADS
from tests.plugin.endings import PLAIN


def test_background_timers_do_not_move_time() -> None:
    """A background timer fires when its time comes, but time does not move for it."""
    fired: list[float] = []
    sequencer = Sequencer(moves=True)
    clock = VirtualClock(sequencer)
    clock.call_at(5, lambda: fired.append(clock.monotonic()), background=True)
    clock.sleep(3)
    assert (clock.monotonic(), fired) == (3, [])

    clock.sleep(3)

    assert (clock.monotonic(), fired) == (6, [5])


async def test_a_loop_that_reads_a_socket(asyncframe: Probe) -> None:
    """Data that another thread sends in real time arrives on a virtual loop."""
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    sender = threading.Thread(target=right.sendall, args=(b"hello\n",))
    sender.start()

    assert await reader.readline() == b"hello\n"
    sender.join()
    writer.close()
    await writer.wait_closed()
    right.close()


async def test_a_late_wake_up(asyncframe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up of a loop is not mistaken for data of a file, even if it comes too late."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    parking = loop._parking
    told: list[object] = []
    asked = threading.Lock()
    asked.acquire()
    select, ask = parking.select, parking._real.select

    def noted(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = select(timeout)
        told.extend(found)
        return found

    def counted(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = ask(timeout)
        if asked.locked():
            asked.release()
        return found

    monkeypatch.setattr(parking, "select", noted)
    monkeypatch.setattr(parking._real, "select", counted)
    loop.wake_for_real()
    # The task continues once the parked loop has read its own byte.
    task_id = asyncframe.manager.submit_nowait(asked.acquire)
    await asyncframe.completed(task_id)

    assert told == []


async def test_a_ready_file_is_not_polled(
    asyncframe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop with data to read waits for its turn without polling the file."""
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    real, asked, seen = loop._parking._real, [], threading.Lock()
    select = real.select

    def counted(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = select(timeout)
        asked.append(found)
        if found and seen.locked():
            seen.release()
        return found

    def send() -> None:
        seen.acquire()
        right.sendall(b"hello\n")
        # A real lock, so this task keeps its turn.
        assert seen.acquire(timeout=PATIENCE)
        asked.clear()
        begun = time.thread_time()
        while time.thread_time() < begun + 0.02:
            pass
        assert len(asked) <= 1

    monkeypatch.setattr(real, "select", counted)
    task_id = asyncframe.manager.submit_nowait(send)
    assert await reader.readline() == b"hello\n"
    await asyncframe.completed(task_id)
    writer.close()
    await writer.wait_closed()
    right.close()


async def test_a_loop_that_runs_already(asyncframe: Probe) -> None:
    """Running a loop twice, or inside another one, raises the same error as in asyncio."""
    loop, other = asyncio.get_running_loop(), asyncframe.clock.new_event_loop()
    with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
        loop.run_forever()
    for call in (other.run_forever, lambda: other.run_until_complete(asyncio.Future(loop=other))):
        with pytest.raises(RuntimeError, match=r"^Cannot run the event loop while another loop"):
            call()
    other.close()

    begun = asyncio.to_thread(asyncframe.clock.sleep, 3)
    await asyncio.wait_for(begun, 5)
    assert asyncframe.clock.monotonic() == 3


async def test_debug_mode_shows_who_set_a_timer(asyncframe: Probe) -> None:
    """In debug mode the repr of a timer shows where it was set, as in asyncio."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    for timer in (loop.call_later(9, print), loop.call_at(9, print)):
        timer.cancel()
        assert re.search(r"created at .*test_sequencer\.py:\d+", repr(timer))


def test_a_wake_up_before_the_wait() -> None:
    """Who has been woken before it waits does not wait."""
    sequencer = Sequencer(moves=True, starts=True, hold=True, one_at_a_time=True)
    woken: Any = SimpleNamespace(notified=True)
    with sequencer.working() as actor:
        assert not sequencer.try_park(actor, None, woken, "to be woken")
        assert not sequencer.try_park(actor, None, None, "a signal", lambda: True)
        sequencer.park(actor, None, woken)


async def test_a_wake_up_as_a_loop_is_about_to_wait(
    asyncframe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that is woken after it has looked what is next does not wait for its next timer."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    clock, parking, called_at = asyncframe.clock, loop._parking, list[float]()
    select = parking.select

    # 1 the loop finds nothing but a timer, 2 it is woken, 3 it lets time move to the timer.
    def woken(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout and not called_at:
            loop.call_soon_threadsafe(lambda: called_at.append(clock.monotonic()))
        return select(timeout)

    monkeypatch.setattr(parking, "select", woken)
    await asyncio.sleep(5)  # noqa: TID251  # of virtual time

    assert (called_at, clock.monotonic()) == ([0], 5)


def test_a_timer_that_has_passed_fires_at_once(asyncframe: Probe) -> None:
    """A timer in the past fires as soon as nobody runs."""
    fired = threading.Event()
    asyncframe.clock.advance(10)
    asyncframe.clock.call_at(3, fired.set)
    assert not fired.is_set()

    assert fired.wait(5)
    assert asyncframe.clock.monotonic() == 10


@pytest.mark.parametrize("moves", [False, True])
def test_a_timer_that_is_cancelled_just_as_it_fires(
    monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    """A timer that another thread cancels after it was chosen does nothing, and time moves on."""
    sequencer, fired = Sequencer(moves=moves), list[int]()
    clock, real = VirtualClock(sequencer), sequencer._timers.pop

    # 1 the timer is taken out while it is live, 2 it is cancelled, 3 it would be called.
    def pop() -> Timer:
        timer = real()
        if timer is cancelled:
            timer.cancel()
        return timer

    with sequencer.working():
        cancelled = clock.call_at(3, lambda: fired.append(3))
        clock.call_at(5, lambda: fired.append(5))
        monkeypatch.setattr(sequencer._timers, "pop", pop)
        if moves:
            clock.sleep(9)
        else:
            clock.advance(9)

    assert (fired, clock.monotonic()) == ([5], 9)


@pytest.mark.asyncframe(mode="seeded", seed=3)
def test_turns_are_drawn(asyncframe: Probe) -> None:
    """In the mode seeded, sleep(0) lets another task run first, in an order that the seed gives."""
    order: list[str] = []

    def step(name: str) -> None:
        for number in range(3):
            order.append(f"{name}{number}")
            asyncframe.clock.sleep(0)

    for name in "ab":
        asyncframe.manager.submit_nowait(step, args=(name,))
    asyncframe.run_until_idle()

    assert sorted(order) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert order not in (sorted(order), sorted(order, key=lambda name: name[::-1]))


def test_a_blocked_task_is_overtaken(asyncframe: Probe) -> None:
    """A task that waits for a lock gets it, though its holder needs a turn to release it."""
    lock = threading.Lock()
    order: list[str] = []

    def hold() -> None:
        with lock:
            asyncframe.manager.submit_nowait(block)
            asyncframe.clock.sleep(0)
            order.append("held")

    def block() -> None:
        with lock:
            order.append("blocked")

    asyncframe.manager.submit_nowait(hold)
    asyncframe.run_until_idle()

    assert order == ["held", "blocked"]


@pytest.mark.extended("time")
def test_a_queued_task_starts_beside_a_blocked_one(asyncframe: Probe) -> None:
    """A task that waits for a socket is answered by one that was queued behind it."""
    reader, writer = socket.socketpair()

    def ask() -> bytes:
        return reader.recv(1)

    with reader, writer:
        asked = asyncframe.manager.submit_nowait(ask)
        asyncframe.manager.submit_nowait(writer.send, args=(b"x",))
        task = asyncframe.run_until_complete(asked)
        asyncframe.run_until_idle()

    assert task.result == b"x"


@SEES_THREADS
def test_a_computing_task_is_not_overtaken(asyncframe: Probe) -> None:
    """A task that computes for long is not mistaken for a blocked one: no other runs beside it."""
    order: list[str] = []

    def compute() -> None:
        asyncframe.manager.submit_nowait(other)
        asyncframe.clock.sleep(0)
        order.append("begins")
        begun = time.thread_time()
        while time.thread_time() < begun + 4 * POLL_INTERVAL:
            pass
        order.append("ends")

    def other() -> None:
        order.append("other begins")
        asyncframe.clock.sleep(0)
        order.append("other ends")

    asyncframe.manager.submit_nowait(compute)
    asyncframe.run_until_idle()

    assert order == ["other begins", "begins", "ends", "other ends"]


def test_time_that_runs_away(asyncframe: Probe) -> None:
    """If only an endless loop of sleeps moves time, the test fails and shows who waits where."""

    async def heartbeat() -> None:
        while True:  # noqa: ASYNC110  # one that never ends is the subject
            await asyncio.sleep(60)  # noqa: TID251  # on virtual time

    async def wait() -> None:
        beating = asyncio.create_task(heartbeat(), name="heartbeat")
        await asyncio.Event().wait()
        beating.cancel()

    asyncframe.clock.sequencer.most_moves = 100
    with asyncio.Runner(loop_factory=asyncframe.clock.new_event_loop) as runner:
        with pytest.raises(VirtualDeadlockError) as caught:
            runner.run(wait())
        told = str(caught.value).splitlines()

    assert told[0] == ("time has moved 100 times, to 6000 s, without progress in any task:")
    assert any(line.startswith("    heartbeat: waits at test_sequencer.py:") for line in told)


def test_time_that_moves_often(asyncframe: Probe) -> None:
    """Time may move any number of times as long as tasks make progress."""

    def nap() -> None:
        for _ in range(60):
            asyncframe.clock.sleep(1)

    asyncframe.clock.sequencer.most_moves = 100
    for _ in range(5):
        asyncframe.run_until_complete(asyncframe.manager.submit_nowait(nap))

    assert asyncframe.clock.monotonic() == 300


@SEES_THREADS
def test_activity_of_threads() -> None:
    """A running thread looks different at each look; one without an identifier is starting."""
    me = threading.get_native_id()
    assert activity(me) != activity(me)  # each call returns another object
    assert glance(me).at_work
    assert glance(None) is BEGINNING

    # No thread has this identifier, as on systems without /proc.
    assert (activity(0), glance(0)) == (None, GONE)


def test_a_deadlock_after_work(asyncframe: Probe) -> None:
    """A deadlock is reported at once, also if another thread has only just become idle."""
    asyncframe.clock.sequencer.watchdog.patience = 60
    for _ in range(20):
        asyncframe.manager.submit_nowait(int)
        with pytest.raises(
            VirtualDeadlockError, match=r"^nothing can continue at 0 s of virtual time"
        ):
            threading.Event().wait()


@pytest.mark.asyncframe(mode="virtual")
def test_a_deadlock_after_work_side_by_side(asyncframe: Probe) -> None:
    """A deadlock is reported at once, also if several threads become idle at the same time."""
    asyncframe.clock.sequencer.watchdog.patience = 60
    for _ in range(20):
        for _ in range(4):
            asyncframe.manager.submit_nowait(int)
        with pytest.raises(
            VirtualDeadlockError, match=r"^nothing can continue at 0 s of virtual time"
        ):
            threading.Event().wait()


def test_no_deadlock_when_a_thread_ends_just_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time moves on, and no deadlock is told, if what was outside ends while that is decided."""
    told: list[str] = []
    sequencer = Sequencer(moves=True)
    clock = VirtualClock(sequencer)
    sequencer.first = sequencer.enter()
    monkeypatch.setattr(sequencer, "on_stall", lambda: told.append("a deadlock"))
    looks = iter([True])
    monkeypatch.setattr(sequencer.outside, "may_act", lambda _: next(looks, False))
    clock.sleep(3)
    sequencer.leave(sequencer.first)

    assert (clock.monotonic(), told) == (3, [])


@pytest.fixture
def only_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python list a thread of a C library that has ended, as it does before 3.12."""
    ended = threading._DummyThread.__new__(threading._DummyThread)
    threading.Thread.__init__(ended, name="ended", daemon=True)
    identifiers: Any = vars(ended)
    identifiers |= {"_ident": 1, "_native_id": 0}  # no thread has these
    monkeypatch.setitem(threading._active, 1, ended)  # type: ignore[attr-defined]


def test_a_deadlock_beside_a_thread_that_is_only_listed(
    only_listed: None, asyncframe: Probe
) -> None:
    """A thread that has ended, and that Python still lists, does not hide a deadlock."""
    asyncframe.clock.sequencer.watchdog.patience = 60
    with pytest.raises(VirtualDeadlockError, match=r"^nothing can continue at 0 s of virtual time"):
        threading.Event().wait()


@SEES_THREADS
def test_a_deadlock_beside_a_thread_that_waits_for_work(asyncframe: Probe) -> None:
    """A thread of the test's own that waits for work without a timeout does not hide a deadlock."""
    asyncframe.clock.sequencer.watchdog.patience = 60
    work: queue.SimpleQueue[None] = queue.SimpleQueue()
    thread = threading.Thread(target=work.get)
    thread.start()
    with pytest.raises(VirtualDeadlockError, match=r"^nothing can continue at 0 s of virtual time"):
        threading.Event().wait()
    work.put(None)
    thread.join()


def test_no_deadlock_beside_a_thread_that_wakes_by_itself(asyncframe: Probe) -> None:
    """A thread of the test's own that waits with a timeout may still wake the test."""
    asyncframe.clock.sequencer.watchdog.patience = 60
    woken = threading.Event()

    def wake() -> None:
        threading.Event().wait(0.2)
        woken.set()

    thread = threading.Thread(target=wake)
    thread.start()
    assert woken.wait()
    thread.join()


# -- timers of threads


def test_timers_of_threads_are_on_the_clock(asyncframe: Probe) -> None:
    """A threading.Timer fires at its virtual second, or not at all if it is cancelled."""
    fired: list[float] = []
    woken = threading.Event()

    def fire() -> None:
        asyncframe.clock.sleep(10)
        fired.append(asyncframe.clock.monotonic())
        woken.set()

    timer, cancelled = threading.Timer(30, fire), threading.Timer(20, fired.append, (0,))
    timer.start()
    cancelled.start()
    cancelled.cancel()

    assert woken.wait(60)
    assert fired == [40]
    timer.join()
    cancelled.join()


def test_timers_that_a_test_leaves(pytester: pytest.Pytester) -> None:
    """A running threading.Timer is a leaked thread, but not if it is a daemon."""
    pytester.makeini(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope=function"
    )
    pytester.makepyfile("""
        import threading

        def test_daemon(asyncframe):
            timer = threading.Timer(3600, print)
            timer.daemon = True
            timer.start()

        def test_left(asyncframe):
            threading.Timer(3600, print).start()
    """)
    result = pytester.runpytest_inprocess(*PLAIN)

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["leaked thread: Thread-*, started at *in test_left*"])


@pytest.mark.parametrize(("waits", "refused"), [(1, 1), (3, 3), (1_000, 100)])
def test_a_thread_that_is_ready_when_its_test_ends(waits: int, refused: int) -> None:
    """Its next wait ends it, but one that catches each error waits in the end."""
    sequencer = Sequencer(moves=True, one_at_a_time=True)
    clock = VirtualClock(sequencer)
    told: list[str] = []
    ended = threading.Event()

    def body() -> None:
        with sequencer.working(arrival):
            for _ in range(waits):
                try:
                    clock.sleep(1)
                except TestEndedError as error:
                    told.append(str(error))
        ended.set()

    first = sequencer.first = sequencer.enter()
    arrival = sequencer.expect("work")
    thread = threading.Thread(target=body)
    thread.start()
    # It may have come by now or not: its turn is after the end of the test's own in any case.
    sequencer.end_waits()
    clock.sleep(2)
    assert told == ["the test has ended"] * refused
    sequencer.leave(first)

    assert ended.wait(PATIENCE)
    thread.join(PATIENCE)
    assert clock.monotonic() == max(2, waits - refused)


def test_limits_of_pytest_are_in_real_time(pytester: pytest.Pytester) -> None:
    """A timeout of pytest-timeout, which is a threading.Timer, runs in real time."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile("""
        import pytest, time

        @pytest.mark.timeout(100, method="thread", func_only=True)
        def test_long(asyncframe):
            time.sleep(3600)
            assert asyncframe.clock.monotonic() == 3600
    """)
    pytester.runpytest_inprocess(*PLAIN).assert_outcomes(passed=1)


async def test_the_collector_wakes_a_loop_in_the_middle(
    asyncframe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the garbage collector runs while the sequencer works may wake the loop."""
    ended: list[bool] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append(True)

    def abandon() -> None:
        # The collector finds it, and asyncio has the loop close it.
        cycle: list[Any] = [numbers()]
        cycle.append(cycle)
        begun = cycle[0].__anext__()
        with pytest.raises(StopIteration, match=r"^1$"):
            begun.send(None)

    new_identity = Roster.new_identity

    def collect(self: Roster, name: str) -> str:
        gc.collect()
        return new_identity(self, name)

    monkeypatch.setattr(Roster, "new_identity", collect)
    gc.disable()  # or it might be found before
    try:
        abandon()
        assert await asyncframe.manager.submit(abs, (-1,), wait=True) == 1
    finally:
        gc.enable()
    assert ended == [True]


async def test_what_interrupts_may_take_the_lock_too(asyncframe: Probe) -> None:
    """A wake that is put off comes once the lock is free, not when a change inside has ended."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    lock = asyncframe.clock.sequencer._lock
    with lock:
        loop.call_soon_threadsafe(woken.set)
        with lock:
            pass
        assert len(lock._late) == 1
    assert not lock._late
    await woken.wait()
