"""ThreadPoolExecutorEnhanced beyond the standard: figures, bound and limit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest

from framework import QueueFullError, TaskTimeoutError, ThreadPoolExecutorEnhanced
from framework._threads.pool_threads import PoolThread
from tests.framework.pools import (
    STATS_KEYS,
    SUMMARY_KEYS,
    Stuck,
    clock_apart,
    counters,
    raises,
    settle,
    start_stuck,
)
from tests.patience import PATIENCE

# -- figures


def test_stats_have_exactly_the_documented_keys() -> None:
    """get_stats() has the keys that its users rely on, before and after the first call."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        before = pool.get_stats()
        pool.submit(int).result(PATIENCE)
        after = pool.get_stats()
    assert set(before) == set(after) == STATS_KEYS
    assert set(before["run_time"]) == set(after["wait_time"]) == SUMMARY_KEYS


def test_stats_are_strict_json() -> None:
    """get_stats() goes through strict JSON unchanged, with and without measured times."""
    with ThreadPoolExecutorEnhanced(1, task_timeout=60.0) as pool:
        before = pool.get_stats()
        pool.submit(int).result(PATIENCE)
        after = pool.get_stats()
    for stats in (before, after):
        assert json.loads(json.dumps(stats, allow_nan=False)) == stats


def test_completed_is_counted_when_the_future_resolves() -> None:
    """A done-callback already sees its own call counted as completed."""
    seen: list[dict[str, int]] = []
    stuck = Stuck()
    with ThreadPoolExecutorEnhanced(1) as pool:
        future = pool.submit(stuck)
        future.add_done_callback(lambda _: seen.append(counters(pool)))
        stuck.gate.set()
    assert seen == [{"submitted": 1, "completed": 1, "failed": 0, "cancelled": 0, "timed_out": 0}]


def test_counted_at_second_zero_of_the_clock() -> None:
    """A call that ends when the clock shows 0 is counted like any other."""
    seen: list[dict[str, int]] = []
    stuck = Stuck()
    with ThreadPoolExecutorEnhanced(1, clock=clock_apart()) as pool:
        future = pool.submit(stuck)
        future.add_done_callback(lambda _: seen.append(counters(pool)))
        stuck.gate.set()
    assert [one["completed"] for one in seen] == [1]


def test_failed_is_counted_when_the_future_resolves() -> None:
    """A done-callback already sees its own call counted as failed."""
    seen: list[int] = []
    gate = threading.Event()

    def fail() -> None:
        gate.wait(PATIENCE)
        raise KeyError("x")

    with ThreadPoolExecutorEnhanced(1) as pool:
        future = pool.submit(fail)
        future.add_done_callback(lambda _: seen.append(counters(pool)["failed"]))
        gate.set()
    assert seen == [1]


def test_a_call_is_no_longer_busy_figure_after_all_ended() -> None:
    """Once every thread has ended, every submitted call is in exactly one counter."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(2, task_timeout=5.0, clock=clock)
    stuck, late = start_stuck(pool)
    clock.advance(5.0)
    block, _ = start_stuck(pool)
    other, _ = start_stuck(pool)
    queued = pool.submit(int)
    queued.cancel()
    block.gate.set()
    other.gate.set()
    pool.submit(raises(ValueError())).exception(PATIENCE)
    stuck.let_go_and_join()
    settle(pool)
    assert isinstance(late.exception(0), TaskTimeoutError)
    assert counters(pool) == {
        "submitted": 5, "completed": 2, "failed": 1, "cancelled": 1, "timed_out": 1,
    }  # fmt: skip


def test_a_call_cancelled_while_a_thread_takes_it_is_counted() -> None:
    """A call that is cancelled between the queue and its start counts as cancelled."""
    # 1 the thread takes the call out of the queue, 2 the caller cancels it, which finds
    # nothing in the queue, 3 the thread may not start it.
    taken, cancelled = threading.Event(), threading.Event()
    # With an initializer a new thread is handed nothing and looks into the queue.
    pool = ThreadPoolExecutorEnhanced(1, initializer=int)
    take = pool._crew.take

    def lying_take(thread: PoolThread) -> Any:
        entry = take(thread)
        if entry is not None:
            taken.set()
            assert cancelled.wait(PATIENCE)
        return entry

    pool._crew.take = lying_take
    future = pool.submit(int)
    assert taken.wait(PATIENCE)
    assert future.cancel()
    cancelled.set()
    settle(pool)
    assert counters(pool) == {
        "submitted": 1, "completed": 0, "failed": 0, "cancelled": 1, "timed_out": 0,
    }  # fmt: skip


class Outsider:
    """The lock of a crew; says when a thread of its own has been kept out."""

    def __init__(self, lock: Any, told: Callable[[], None]) -> None:  # Any: locks have no type
        self._lock = lock
        self._told = told

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._told()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Copied(dict[Any, int]):
    """Counts of calls that ended; something happens after each copy of them."""

    def __init__(self, counts: dict[Any, int], then: Callable[[], None]) -> None:
        super().__init__(counts)
        self._then = then

    def copy(self) -> dict[Any, int]:
        """Return a copy, after which the counts may go on."""
        made = dict(self)
        self._then()
        return made


def test_figures_add_up_while_a_thread_ends() -> None:
    """A call whose thread ends while the figures are read is in them all the same, once."""
    # 1 the figures have copied the counts of threads that have ended, 2 a thread that was given
    # up ends, adds its own count to those, and is no longer one of the threads, 3 the figures
    # add what the threads have. The lock keeps 2 out.
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=5.0, clock=clock)
    stuck, _ = start_stuck(pool)
    clock.advance(5.0)
    crew = pool._crew
    came, leave, lock = threading.Event(), crew.leave, crew.lock

    def leave_and_tell(thread: PoolThread) -> None:
        leave(thread)
        came.set()

    def let_the_thread_end() -> None:
        stuck.gate.set()
        # Either it has left, or the lock keeps it out.
        assert came.wait(PATIENCE)

    crew.leave = leave_and_tell  # type: ignore[method-assign]
    crew.lock = Outsider(lock, came.set)  # type: ignore[assignment]
    crew.ended = Copied(crew.ended, let_the_thread_end)
    seen = counters(pool)
    crew.lock = lock
    stuck.let_go_and_join()
    settle(pool)
    assert seen == {"submitted": 1, "completed": 0, "failed": 0, "cancelled": 0, "timed_out": 1}
    assert counters(pool) == seen


def test_queued_calls_of_a_broken_pool_are_counted_as_failed() -> None:
    """Calls that a failing initializer drops from the queue count as failed."""
    gate = threading.Event()

    def initializer() -> None:
        gate.wait(PATIENCE)
        raise ValueError("no")

    pool = ThreadPoolExecutorEnhanced(1, initializer=initializer)
    futures = [pool.submit(int) for _ in range(3)]
    gate.set()
    for future in futures:
        with pytest.raises(
            BrokenThreadPool,
            match=r"^A thread initializer failed, the thread pool is not usable anymore$",
        ):
            future.result(PATIENCE)
    settle(pool)
    assert counters(pool)["failed"] == 3


def test_times_are_measured_on_the_pools_clock() -> None:
    """Wait and run times are differences on the clock that the pool was given."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, clock=clock)
    first, _ = start_stuck(pool)
    second = Stuck()
    pool.submit(second)
    clock.advance(3.0)
    first.gate.set()
    assert second.started.wait(PATIENCE)
    clock.advance(4.0)
    second.gate.set()
    settle(pool)
    stats = pool.get_stats()
    assert stats["wait_time"] == {
        "count": 2, "mean": 1.5, "min": 0.0, "max": 3.0, "p50": 0.0, "p95": 3.0, "p99": 3.0,
    }  # fmt: skip
    assert (stats["run_time"]["min"], stats["run_time"]["max"]) == (3.0, 4.0)


def test_get_active_tasks_names_what_runs() -> None:
    """get_active_tasks() tells name, thread, run time and whether the thread is given up."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, "mine", task_timeout=10.0, clock=clock)
    stuck, _ = start_stuck(pool)
    clock.advance(4.0)
    before = pool.get_active_tasks()
    clock.advance(6.0)
    after = pool.get_active_tasks()
    stuck.let_go_and_join()
    settle(pool)
    name = f"{Stuck.__module__}.Stuck"
    assert before == [{"name": name, "thread": "mine_0", "run_time": 4.0, "abandoned": False}]
    assert [one["abandoned"] for one in after] == [True]
    assert json.loads(json.dumps(before)) == before


def test_nothing_active_after_the_end() -> None:
    """get_active_tasks() is empty once nothing runs."""
    pool = ThreadPoolExecutorEnhanced(1)
    pool.submit(int).result(PATIENCE)
    settle(pool)
    assert pool.get_active_tasks() == []


# -- the bounded queue


def test_a_full_queue_refuses() -> None:
    """With queue_size waiting calls a further one is refused, and that is counted."""
    pool = ThreadPoolExecutorEnhanced(1, queue_size=2)
    stuck, _ = start_stuck(pool)
    waiting = [pool.submit(int) for _ in range(2)]
    with pytest.raises(QueueFullError) as caught:
        pool.submit(int)
    stats = pool.get_stats()
    stuck.gate.set()
    assert [future.result(PATIENCE) for future in waiting] == [0, 0]
    settle(pool)
    assert caught.value.queue_size == 2
    assert (stats["queued"], stats["rejected"], stats["submitted"]) == (2, 1, 3)


def test_cancelling_frees_a_place_in_the_queue() -> None:
    """A cancelled call leaves its place in a full queue to another one at once."""
    pool = ThreadPoolExecutorEnhanced(1, queue_size=1)
    stuck, _ = start_stuck(pool)
    assert pool.submit(int).cancel()
    second = pool.submit(lambda: "runs")
    stuck.gate.set()
    assert second.result(PATIENCE) == "runs"
    settle(pool)


# -- the default limit


def test_a_call_over_the_limit_gets_the_error() -> None:
    """At the limit, and not before, the future has TaskTimeoutError while the call runs on."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=5.0, clock=clock)
    stuck, future = start_stuck(pool)
    clock.advance(4.999)
    before = future.done()
    clock.advance(0.001)
    error = future.exception(0)
    stuck.let_go_and_join()
    settle(pool)
    assert not before
    assert isinstance(error, TaskTimeoutError)
    assert (error.limit, error.task_id, error.name) == (5.0, "", f"{Stuck.__module__}.Stuck")


def test_the_limit_does_not_count_in_the_queue() -> None:
    """A call that waited longer than its limit before it started still completes."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=5.0, clock=clock)
    stuck, _ = start_stuck(pool)
    clock.advance(4.0)
    second = Stuck()
    waiting = pool.submit(second)
    clock.advance(0.5)
    stuck.gate.set()
    assert second.started.wait(PATIENCE)
    clock.advance(4.9)
    second.gate.set()
    assert waiting.result(PATIENCE) == "late"
    settle(pool)


def test_a_late_result_is_dropped() -> None:
    """What a call returns after its limit changes neither its future nor its counter."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=5.0, clock=clock)
    stuck, future = start_stuck(pool)
    clock.advance(5.0)
    stuck.let_go_and_join()
    settle(pool)
    assert isinstance(future.exception(0), TaskTimeoutError)
    assert counters(pool) == {
        "submitted": 1, "completed": 0, "failed": 0, "cancelled": 0, "timed_out": 1,
    }  # fmt: skip


def test_a_given_up_thread_is_replaced() -> None:
    """A thread stuck past the limit is replaced, so the next call runs beside it."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=5.0, clock=clock)
    stuck, _ = start_stuck(pool)
    queued = pool.submit(threading.current_thread)
    clock.advance(5.0)
    other = queued.result(PATIENCE)
    stats = pool.get_stats()
    stuck.let_go_and_join()
    settle(pool)
    assert other is not stuck.thread
    assert (stats["abandoned"], stats["threads"], stats["degraded"]) == (1, 2, False)


def test_a_given_up_thread_ends_with_its_call() -> None:
    """An abandoned thread retires when its call ends, and the figures forget it."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=5.0, clock=clock)
    stuck, _ = start_stuck(pool)
    clock.advance(5.0)
    pool.submit(int).result(PATIENCE)
    stuck.let_go_and_join()
    stats = pool.get_stats()
    settle(pool)
    assert (stats["abandoned"], stats["threads"]) == (0, 1)


def test_past_max_workers_given_up_the_pool_is_degraded() -> None:
    """With more than max_workers threads given up the pool says so and replaces no more."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=5.0, queue_size=1, clock=clock)
    first, _ = start_stuck(pool)
    clock.advance(5.0)
    second, _ = start_stuck(pool)
    at_the_cap = pool.get_stats()
    clock.advance(5.0)
    queued = pool.submit(lambda: "at last")
    past_it = pool.get_stats()
    with pytest.raises(
        QueueFullError,
        match=r"^the task queue is full: 1 tasks are waiting; try again in 1 s, or increase ",
    ):
        pool.submit(int)
    first.let_go_and_join()
    recovered = queued.result(PATIENCE)
    second.let_go_and_join()
    settle(pool)
    assert (at_the_cap["abandoned"], at_the_cap["degraded"]) == (1, False)
    assert (past_it["abandoned"], past_it["degraded"], past_it["threads"]) == (2, True, 2)
    assert recovered == "at last"


def test_callbacks_of_a_timed_out_future_do_not_hold_up_the_clock() -> None:
    """A done-callback that blocks at the limit leaves the clock free to fire other limits."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(2, task_timeout=5.0, clock=clock)
    one, first = start_stuck(pool)
    two, second = start_stuck(pool)
    release, entered = threading.Event(), threading.Event()

    def block(_: Future[str]) -> None:
        entered.set()
        release.wait(PATIENCE)

    first.add_done_callback(block)
    clock.advance(5.0)
    assert entered.wait(PATIENCE)
    error = second.exception(0)
    release.set()
    one.let_go_and_join()
    two.let_go_and_join()
    settle(pool)
    assert isinstance(error, TaskTimeoutError)


@pytest.mark.parametrize("limit", [None, float("inf")])
def test_no_limit_sets_no_timer(limit: float | None) -> None:
    """Without a limit, or with an infinite one, no call is ever ended by time."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=limit, clock=clock)
    stuck, future = start_stuck(pool)
    assert clock.explain() == "no pending timers"
    stuck.gate.set()
    assert future.result(PATIENCE) == "late"
    settle(pool)


def test_own_timeout_error_is_a_failure() -> None:
    """A TimeoutError that the call itself raises is its failure and no limit's."""
    mine = TimeoutError("mine")
    with ThreadPoolExecutorEnhanced(1, task_timeout=60.0) as pool:
        assert pool.submit(raises(mine)).exception(PATIENCE) is mine
        stats = counters(pool)
    assert (stats["failed"], stats["timed_out"]) == (1, 0)
