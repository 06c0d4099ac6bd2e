"""When to come back to a full queue follows from how fast it empties."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework import QueueFullError, ThreadPoolExecutorEnhanced, setup_async_framework
from framework._threads.clock import SystemClock
from framework._threads.watch.outflow import LONGEST, Outflow
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE


def answers(*refusals: tuple[float, int]) -> list[float]:
    """Return the answers to refusals, each with its second and how many had left by then."""
    now = [0.0]
    outflow, found = Outflow(lambda: now[0]), []
    for now[0], left in refusals:
        found.append(outflow.next_place(left))
    return found


MEASURED: dict[str, tuple[list[tuple[float, int]], list[int]]] = {
    "nothing measured": ([(0, 7), (0.9, 7)], [1, 1]),
    "quick": ([(0, 0), (2, 500)], [1, 1]),
    "one in 2.5 s": ([(0, 0), (10, 4)], [1, 3]),
    "none for a while": ([(0, 0), (4.2, 0), (20, 0)], [1, 5, 20]),
    "one in a minute": ([(0, 0), (60, 1)], [1, 60]),
    "slower than can be known": ([(0, 0), (60, 0)], [1, 60]),
    "faster now": ([(0, 0), (20, 1), (40, 2), (61, 30), (82, 90)], [1, 20, 20, 2, 1]),
    "long ago": ([(0, 0), (100, 1)], [1, 1]),
}


def test_the_next_place() -> None:
    """The answer is the time in which one leaves, of those in the last minute, in whole seconds."""
    found = {name: answers(*refusals) for name, (refusals, _) in MEASURED.items()}
    assert found == {name: expected for name, (_, expected) in MEASURED.items()}


STEPS = st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**9)), max_size=50)


@given(STEPS)
def test_the_bounds(steps: list[tuple[float, int]]) -> None:
    """Every answer is a whole number of seconds from 1 to 60, and few samples are kept."""
    now, left = [0.0], 0
    outflow = Outflow(lambda: now[0])
    for pause, gone in steps:
        now[0] += pause
        left += gone
        answer = outflow.next_place(left)
        assert answer == int(answer)
        assert 1 <= answer <= LONGEST
        assert len(outflow._samples) <= 61


@pytest.mark.asyncframe(mode="virtual")
async def test_a_full_queue_in_virtual_time(asyncframe: Probe) -> None:
    """A queue that two tasks have left in 12 s says 6 s, in the error and in its header."""

    def refused() -> QueueFullError:
        submit = partial(asyncframe.manager.submit_nowait, asyncframe.clock.sleep, (5.0,))
        submit(), submit()
        with pytest.raises(QueueFullError) as raised:
            submit()
        return raised.value

    async with setup_async_framework(None, max_workers=1, queue_size=2):
        assert refused().retry_after == 1.0
        await asyncframe.clock.run_for(12)
        error = refused()
    assert (error.retry_after, error.headers) == (6.0, {"Retry-After": "6"})


class HandClock(SystemClock):
    """A clock that a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.monotonic = lambda: self.now


def test_a_bare_pool() -> None:
    """A pool of the user's own measures it by its clock: one call has left it in 4 s."""
    clock, gates = HandClock(), [threading.Event() for _ in range(4)]

    def hold(number: int) -> None:
        gates[number].set()
        gates[number + 2].wait(PATIENCE)

    with ThreadPoolExecutorEnhanced(1, queue_size=1, clock=clock) as pool:

        def refused() -> float:
            with pytest.raises(QueueFullError) as raised:
                pool.submit(int)
            return raised.value.retry_after

        pool.submit(hold, 0)
        gates[0].wait(PATIENCE)
        pool.submit(hold, 1)
        assert refused() == 1.0
        gates[2].set()
        gates[1].wait(PATIENCE)
        pool.submit(int)
        clock.now += 4.0
        assert refused() == 4.0
        gates[3].set()
