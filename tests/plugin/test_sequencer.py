"""The sequencer's edges: timers of all kinds, sockets, and turns that a seed draws."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import time

import pytest

from pytest_asyncframe._activity import activity, runs
from pytest_asyncframe._loop import VirtualLoop
from pytest_asyncframe._sequencer import Sequencer
from pytest_asyncframe._turns import LOOK_EVERY
from pytest_asyncframe.clock import VirtualClock, VirtualDeadlockError
from pytest_asyncframe.probe import Probe


def test_who_sleeps_is_told(asyncframe: Probe) -> None:
    """explain() names the coming moments, the first one first, background ones as such."""
    clock = asyncframe.clock
    clock.call_at(9, print, background=True)
    clock.call_at(3, len)  # type: ignore[arg-type]  # it is only named
    told = clock.explain().splitlines()

    assert told == ["t+3 s len", "t+9 s print, in the background"]
    for timer in clock.sequencer.timers():
        timer.cancel()
    assert clock.explain() == "nothing waits for its time"


def test_background_timers_do_not_move_time() -> None:
    """A timer that nobody waits for fires in passing, and moves no time by itself."""
    fired: list[float] = []
    sequencer = Sequencer(moves=True)
    clock = VirtualClock(sequencer)
    clock.call_at(5, lambda: fired.append(clock.monotonic()), background=True)
    clock.sleep(3)
    assert (clock.monotonic(), fired) == (3, [])

    clock.sleep(3)

    assert (clock.monotonic(), fired) == (6, [5])


async def test_a_loop_that_reads_a_socket(asyncframe: Probe) -> None:
    """Bytes that another thread really sends arrive on a virtual loop."""
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    sender = threading.Thread(target=right.sendall, args=(b"hello\n",))
    sender.start()

    assert await reader.readline() == b"hello\n"
    sender.join()
    writer.close()
    await writer.wait_closed()
    right.close()


async def test_a_wake_up_that_comes_late(
    asyncframe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What wakes a loop is not taken for bytes of a file, even if it comes too late to wake it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    seat = loop._seat
    told: list[object] = []
    asked = threading.Lock()
    asked.acquire()
    select, ask = seat.select, seat._real.select

    def noted(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = select(timeout)
        told.extend(found)
        return found

    def counted(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = ask(timeout)
        if asked.locked():
            asked.release()
        return found

    monkeypatch.setattr(seat, "select", noted)
    monkeypatch.setattr(seat._real, "select", counted)
    loop.wake_for_real()
    # The task goes on once the loop, which is parked, has seen its own byte.
    task_id = asyncframe.manager.submit_nowait(asked.acquire)
    await asyncframe.completed(task_id)

    assert told == []


async def test_a_file_is_asked_for_once(asyncframe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that has bytes to read waits for its turn without asking again and again."""
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    real, asked, seen = loop._seat._real, [], threading.Lock()
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
        # The lock is a real one: the turn is still this task's.
        seen.acquire(timeout=5)
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


def test_a_timer_that_has_passed_fires_at_once(asyncframe: Probe) -> None:
    """A timer for a moment that has passed fires as soon as nobody runs."""
    fired = threading.Event()
    asyncframe.clock.advance(10)
    asyncframe.clock.call_at(3, fired.set)
    assert not fired.is_set()

    assert fired.wait(5)
    assert asyncframe.clock.monotonic() == 10


@pytest.mark.asyncframe(mode="seeded", seed=3)
def test_turns_are_drawn(asyncframe: Probe) -> None:
    """In the mode seeded sleep(0) lets another one go first, in an order that the seed gives."""
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


def test_one_that_blocks_does_not_keep_the_others(asyncframe: Probe) -> None:
    """A task that waits for a lock that its holder can only release in a turn gets it."""
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


def test_one_that_computes_keeps_the_others(asyncframe: Probe) -> None:
    """A task that computes for long is not taken for one that blocks: no other runs beside it."""
    order: list[str] = []

    def compute() -> None:
        asyncframe.manager.submit_nowait(other)
        asyncframe.clock.sleep(0)
        order.append("begins")
        begun = time.thread_time()
        while time.thread_time() < begun + 4 * LOOK_EVERY:
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
    """Where only something that never ends moves time, the test is told who waits where."""

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

    assert told[0] == (
        "time has moved 100 times, to 6000 s, and nothing has happened to any task meanwhile:"
    )
    assert any(line.startswith("    heartbeat: waits at test_sequencer.py:") for line in told)


def test_time_that_moves_often(asyncframe: Probe) -> None:
    """Time may move without end as long as tasks get on meanwhile."""

    def nap() -> None:
        for _ in range(60):
            asyncframe.clock.sleep(1)

    asyncframe.clock.sequencer.most_moves = 100
    for _ in range(5):
        asyncframe.run_until_complete(asyncframe.manager.submit_nowait(nap))

    assert asyncframe.clock.monotonic() == 300


def test_whether_a_thread_runs() -> None:
    """A thread that runs, or that is just beginning, never looks as it did before."""
    me = threading.get_native_id()
    assert activity(me) != activity(me)  # each call is another
    assert runs(me) != runs(me)  # each call is another
    assert runs(None) != runs(None)  # each call is another

    # As on systems that tell nothing: no thread has this identifier.
    assert (activity(0), runs(0)) == (None, None)
