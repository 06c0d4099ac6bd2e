"""The harness for the framework's own code: what it finds, and how it says so."""

from __future__ import annotations

import _thread
import itertools
import re
import threading
from collections.abc import Callable

import pytest

from pytest_asyncframe._explore.schedule import Default
from tests.explore.ourselves import pool
from tests.explore.ourselves.harness import Explorer
from tests.explore.ourselves.replay import replay
from tests.explore.ourselves.run import Gate, Run, check_history


def wait_for_ever(run: Run) -> None:
    """Wait for a gate that nobody opens."""
    run.together(Gate().wait)


def leave_a_thread(run: Run) -> None:
    """Start a thread, and do not wait for it."""
    threading.Thread(target=run.sleep, args=(5.0,), name="late").start()


def raise_on_a_thread(run: Run) -> None:
    """Let a thread raise an error."""
    run.together(lambda: run.replace(None, "no name", 1))


def block_for_real(run: Run) -> None:
    """Let a thread wait for a real lock until another one has had a turn."""
    lock = _thread.allocate_lock()
    lock.acquire()

    def wait() -> None:
        lock.acquire()

    run.together(wait, lock.release)


@pytest.mark.parametrize("level", ["locks", "line", "opcode"])
@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        (wait_for_ever, "stuck: test waits for wait to end; wait#1 waits for "),
        (leave_a_thread, "threads left: late#1"),
        (raise_on_a_thread, "<lambda> raised AttributeError("),
        (block_for_real, "wait#1 blocked outside of the run"),
    ],
)
def test_what_is_found(scenario: Callable[[Run], None], told: str, level: str) -> None:
    """A run fails if nobody can go on, and if a thread is left, raises an error, or blocks."""
    outcome = Explorer(scenario, level).once(Default())
    assert str(outcome.error).startswith(told)


@pytest.mark.parametrize(("times", "fails"), [(1, False), (9, True)])
def test_a_thread_that_blocks_once_is_no_failure(times: int, fails: bool) -> None:
    """A run in which a thread blocked fails only if it blocks again in the same schedule."""
    runs = itertools.count()

    def block_at_first(run: Run) -> None:
        # The very first run only imports what is imported once.
        if 1 <= next(runs) <= times:
            block_for_real(run)

    _, failed = Explorer(block_at_first, "locks").explore("delays", 1)
    assert (failed is not None) is fails


def test_histories_that_cannot_be() -> None:
    """A history is refused without its beginning, with two ends, or with more after its end."""
    for kinds in (
        ["started", "completed"],
        ["submitted", "started"],
        ["submitted", "completed", "failed"],
        ["submitted", "completed", "progress"],
        ["submitted", "late_result", "completed"],
    ):
        with pytest.raises(AssertionError, match=rf"^{re.escape(str(kinds))}"):
            check_history(kinds)


def test_a_failure_is_explained_and_replayed() -> None:
    """A failure names its switches and gives a line, with which it fails in the same way."""
    explorer = Explorer(pool.put_or_close, "line", without="Crew.lock")
    runs, failed = explorer.explore("mixed", 100)
    assert failed is not None
    text = explorer.explain(failed)
    line = text.rpartition("python -m tests.explore.ourselves.replay ")[2]
    again = Explorer(pool.put_or_close, "line", without="Crew.lock")
    assert text.startswith(f"put_or_close fails at level line: {again.replay(line).error!r}\n")
    assert "minimised: " in text
    assert again.explore("mixed", 100)[0] == runs
    # With the lock, the same switches do no harm.
    assert replay(line) is None


def test_lines_of_nothing_known() -> None:
    """A line whose scenario is not known is refused."""
    explorer = Explorer(wait_for_ever, "locks")
    line = explorer.explain(explorer.once(Default())).rpartition(" ")[2]
    with pytest.raises(LookupError, match=r"^the line must be that of a scenario in this folder$"):
        replay(line)


def test_time_moves_only_when_nobody_can_run() -> None:
    """A thread that waits for a second and one that works end at second 0 and second 1."""
    ends: dict[str, float] = {}

    def scenario(run: Run) -> None:
        def wait() -> None:
            run.sleep(1.0)
            ends["wait"] = run.clock.monotonic()

        def work() -> None:
            pool = run.pool(1)
            pool.submit(int).result()
            pool.shutdown()
            ends["work"] = run.clock.monotonic()

        run.together(wait, work)

    _, failed = Explorer(scenario, "line").explore("random", 20)
    assert failed is None
    assert ends == {"wait": 1.0, "work": 0.0}
