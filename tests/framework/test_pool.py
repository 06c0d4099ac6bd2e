"""ThreadPoolExecutorEnhanced beyond what CPython's own tests of a thread pool ask for."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest

from framework import QueueFullError, TaskTimeoutError, ThreadPoolExecutorEnhanced
from framework._crew import Worker
from framework.exceptions import DeadlockError
from tests.framework.clocks import ManualClock

PATIENCE = 10.0
"""Real seconds after which a wait for another thread is a failure."""

STATS_KEYS = {
    "max_workers", "threads", "busy", "idle", "queued", "abandoned", "submitted", "completed",
    "failed", "cancelled", "timed_out", "rejected", "degraded", "wait_time", "run_time",
}  # fmt: skip
SUMMARY_KEYS = {"count", "mean", "min", "max", "p50", "p95", "p99"}


class Stuck:
    """A call that runs until it is let go; knows its thread."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.gate = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> str:
        """Say that it runs, and wait."""
        self.thread = threading.current_thread()
        self.started.set()
        assert self.gate.wait(PATIENCE)
        return "late"

    def let_go_and_join(self) -> None:
        """End the call, and wait for its thread to end, which it must."""
        self.gate.set()
        assert self.thread is not None
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def start_stuck(pool: ThreadPoolExecutorEnhanced) -> tuple[Stuck, Future[str]]:
    """Submit a stuck call and wait until it runs."""
    stuck = Stuck()
    future = pool.submit(stuck)
    assert stuck.started.wait(PATIENCE)
    return stuck, future


def settle(pool: ThreadPoolExecutorEnhanced) -> None:
    """Have every call of the pool tallied: its threads end only after that."""
    pool.shutdown()


def counters(pool: ThreadPoolExecutorEnhanced) -> dict[str, int]:
    """Return the counters that add up to what was submitted."""
    stats = pool.get_stats()
    return {
        name: stats[name] for name in ("submitted", "completed", "failed", "cancelled", "timed_out")
    }


def raises(error: BaseException) -> Callable[[], None]:
    """Return a function that raises *error*."""

    def call() -> None:
        raise error

    return call


def run_script(body: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, which must end by itself."""
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


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
    with ThreadPoolExecutorEnhanced(1, clock=ManualClock(start=0.0)) as pool:
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
    clock = ManualClock()
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
    pool = ThreadPoolExecutorEnhanced(1)
    take = pool._crew.take

    def lying_take(worker: Worker) -> Any:
        entry = take(worker)
        if entry is not None:
            taken.set()
            assert cancelled.wait(PATIENCE)
        return entry

    pool._crew.take = lying_take  # type: ignore[method-assign]
    future = pool.submit(int)
    assert taken.wait(PATIENCE)
    assert future.cancel()
    cancelled.set()
    settle(pool)
    assert counters(pool) == {
        "submitted": 1, "completed": 0, "failed": 0, "cancelled": 1, "timed_out": 0,
    }  # fmt: skip


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
        with pytest.raises(BrokenThreadPool):
            future.result(PATIENCE)
    settle(pool)
    assert counters(pool)["failed"] == 3


def test_times_are_measured_on_the_pools_clock() -> None:
    """Wait and run times are differences on the clock that the pool was given."""
    clock = ManualClock()
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
    clock = ManualClock()
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
    clock = ManualClock()
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
    clock = ManualClock()
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
    clock = ManualClock()
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
    clock = ManualClock()
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
    clock = ManualClock()
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
    clock = ManualClock()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=5.0, queue_size=1, clock=clock)
    first, _ = start_stuck(pool)
    clock.advance(5.0)
    second, _ = start_stuck(pool)
    at_the_cap = pool.get_stats()
    clock.advance(5.0)
    queued = pool.submit(lambda: "at last")
    past_it = pool.get_stats()
    with pytest.raises(QueueFullError):
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
    clock = ManualClock()
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
    clock = ManualClock()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=limit, clock=clock)
    stuck, future = start_stuck(pool)
    assert clock.timers == []
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


# -- waiting inside the pool


def test_a_queued_future_runs_inline() -> None:
    """A call that waits for a queued call of its full pool runs it on its own thread."""
    with ThreadPoolExecutorEnhanced(1) as pool:

        def outer() -> tuple[threading.Thread, threading.Thread]:
            return threading.current_thread(), pool.submit(threading.current_thread).result()

        here, there = pool.submit(outer).result(PATIENCE)
    assert here is there


def test_waiting_for_the_exception_runs_inline_too() -> None:
    """exception() of a queued call of the own full pool does not deadlock either."""
    with ThreadPoolExecutorEnhanced(1) as pool:

        def outer() -> BaseException | None:
            return pool.submit(raises(KeyError("k"))).exception()

        found = pool.submit(outer).result(PATIENCE)
    assert isinstance(found, KeyError)


def test_nested_waits_run_inline_to_any_depth() -> None:
    """A chain of 50 calls that each wait for the next ends on one thread."""
    with ThreadPoolExecutorEnhanced(1) as pool:

        def down(depth: int) -> int:
            return 0 if depth == 0 else 1 + pool.submit(down, depth - 1).result()

        assert pool.submit(down, 50).result(PATIENCE) == 50
        assert pool.get_stats()["completed"] == 51


def test_a_future_is_not_run_inline_on_a_foreign_thread() -> None:
    """A thread that is not the pool's waits for a queued call and does not run it."""
    pool = ThreadPoolExecutorEnhanced(1)
    stuck, _ = start_stuck(pool)
    queued = pool.submit(threading.current_thread)
    with pytest.raises(TimeoutError):
        queued.result(0)
    stuck.gate.set()
    assert queued.result(PATIENCE) is stuck.thread
    settle(pool)


def test_a_circle_of_waits_is_refused() -> None:
    """Two calls that wait for each other get an error that names the circle, at once."""
    futures: dict[str, Future[Any]] = {}
    both = threading.Barrier(2)

    def wait_for(name: str) -> Any:
        both.wait(PATIENCE)
        return futures[name].result()

    with ThreadPoolExecutorEnhanced(2) as pool:
        entered = threading.Lock()
        with entered:
            futures["a"] = pool.submit(wait_for, "b")
            futures["b"] = pool.submit(wait_for, "a")
        errors = [futures[name].exception(PATIENCE) for name in "ab"]
    for error in errors:
        assert isinstance(error, DeadlockError)
    assert errors[0].chain[0] == errors[0].chain[-1]  # type: ignore[union-attr]


def test_a_call_that_waits_for_itself_is_refused() -> None:
    """A call that waits for its own future gets DeadlockError."""
    own: list[Future[Any]] = []
    ready = threading.Event()

    def wait_for_myself() -> Any:
        assert ready.wait(PATIENCE)
        return own[0].result()

    with ThreadPoolExecutorEnhanced(1) as pool:
        own.append(pool.submit(wait_for_myself))
        ready.set()
        assert isinstance(own[0].exception(PATIENCE), DeadlockError)


def test_a_wait_with_a_timeout_is_no_deadlock() -> None:
    """A call that waits for itself with a timeout gets TimeoutError, since that wait ends."""
    own: list[Future[Any]] = []
    ready = threading.Event()

    def wait_for_myself() -> Any:
        assert ready.wait(PATIENCE)
        return own[0].result(0.001)

    with ThreadPoolExecutorEnhanced(1) as pool:
        own.append(pool.submit(wait_for_myself))
        ready.set()
        error = own[0].exception(PATIENCE)
    assert type(error) is TimeoutError


def test_no_inline_run_after_shutdown_dropped_the_call() -> None:
    """A call dropped by shutdown raises CancelledError in the call that waits for it."""
    inner: list[Future[Any]] = []
    ready, dropped = threading.Event(), threading.Event()
    ran: list[bool] = []

    def outer() -> Any:
        inner.append(pool.submit(ran.append, True))
        ready.set()
        assert dropped.wait(PATIENCE)
        return inner[0].result()

    pool = ThreadPoolExecutorEnhanced(1)
    future = pool.submit(outer)
    assert ready.wait(PATIENCE)
    pool.shutdown(wait=False, cancel_futures=True)
    dropped.set()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    assert ran == []


# -- what calls raise


def test_stop_iteration_becomes_a_runtime_error() -> None:
    """StopIteration, which asyncio cannot carry, arrives as RuntimeError with it as cause."""
    stop = StopIteration(3)
    with ThreadPoolExecutorEnhanced(1) as pool:
        error = pool.submit(raises(stop)).exception(PATIENCE)
    assert isinstance(error, RuntimeError)
    assert error.__cause__ is stop


async def test_stop_iteration_wakes_who_awaits() -> None:
    """Whoever awaits a call that raises StopIteration is woken, with an error."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        waiting = asyncio.get_running_loop().run_in_executor(pool, raises(StopIteration()))
        with pytest.raises(RuntimeError, match=r"raised StopIteration$"):
            await waiting


class FalsyError(Exception):
    """An error that is false, as one with a length of 0 is."""

    def __bool__(self) -> bool:
        return False


def test_a_falsy_error_is_raised() -> None:
    """result() raises an error whose truth value is False, and does not return None."""
    error = FalsyError()
    with ThreadPoolExecutorEnhanced(1) as pool:
        future = pool.submit(raises(error))
        with pytest.raises(FalsyError):
            future.result(PATIENCE)


def test_threads_survive_whatever_calls_raise() -> None:
    """One thread serves on after SystemExit, KeyboardInterrupt and other BaseExceptions."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        first = pool.submit(threading.current_thread).result(PATIENCE)
        for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException()):
            assert pool.submit(raises(error)).exception(PATIENCE) is error
        assert pool.submit(threading.current_thread).result(PATIENCE) is first


def test_locals_of_failed_calls_are_freed() -> None:
    """The stored error keeps its traceback but none of its frames' locals."""

    def fail() -> None:
        big = bytearray(10)
        raise ValueError(len(big))

    with ThreadPoolExecutorEnhanced(1) as pool:
        error = pool.submit(fail).exception(PATIENCE)
    assert error is not None
    frames = []
    step = error.__traceback__
    while step is not None:
        frames.append(step.tb_frame)
        step = step.tb_next
    assert frames[-1].f_code is fail.__code__
    assert frames[-1].f_locals == {}


# -- no threads to be had


def test_a_thread_that_cannot_start_refuses_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any thread submit raises, and the call is neither queued nor counted."""
    pool = ThreadPoolExecutorEnhanced(1)
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "start", raises_no_thread)
        with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
            pool.submit(int)
    stats = pool.get_stats()
    assert (stats["queued"], stats["submitted"], stats["threads"]) == (0, 0, 0)
    assert pool.submit(int).result(PATIENCE) == 0
    settle(pool)


def test_existing_threads_take_over_when_none_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call for which no further thread starts is run by those that there are."""
    pool = ThreadPoolExecutorEnhanced(2)
    stuck, _ = start_stuck(pool)
    monkeypatch.setattr(Worker, "start", raises_no_thread)
    queued = pool.submit(threading.current_thread)
    stuck.gate.set()
    assert queued.result(PATIENCE) is stuck.thread
    settle(pool)


def raises_no_thread(_: threading.Thread) -> None:
    """Fail as ``Thread.start`` does when the process has too many."""
    raise RuntimeError("can't start new thread")


class NoTimers(ManualClock):
    """A clock whose timer thread cannot be started."""

    def call_at(self, *_: object, **__: object) -> Any:
        """Fail as `SystemClock` does when the process has too many threads."""
        raise RuntimeError("can't start new thread")


def test_a_limit_that_cannot_be_set_fails_the_call() -> None:
    """A call whose limit cannot be watched fails with the reason and is not lost."""
    ran: list[bool] = []
    with ThreadPoolExecutorEnhanced(1, task_timeout=5.0, clock=NoTimers()) as pool:
        error = pool.submit(ran.append, True).exception(PATIENCE)
    assert isinstance(error, RuntimeError)
    assert ran == []


def test_callbacks_run_although_no_thread_can_be_had_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the limit a watched future resolves even if no thread starts for its callbacks."""
    clock = ManualClock()
    pool = ThreadPoolExecutorEnhanced(1, task_timeout=5.0, clock=clock)
    stuck, future = start_stuck(pool)
    told: list[Future[str]] = []
    future.add_done_callback(told.append)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", raises_no_thread)
        clock.advance(5.0)
    stuck.let_go_and_join()
    settle(pool)
    assert told == [future]
    assert isinstance(future.exception(0), TaskTimeoutError)


# -- shutdown


def test_shutdown_with_a_timeout_leaves_a_stuck_thread_behind() -> None:
    """shutdown(timeout=...) returns although a thread is stuck, and refuses new calls."""
    pool = ThreadPoolExecutorEnhanced(1)
    stuck, future = start_stuck(pool)
    pool.shutdown(timeout=0)
    still = not future.done()
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(int)
    stuck.let_go_and_join()
    assert still
    assert future.result(0) == "late"


@pytest.mark.parametrize(("timeout", "kind"), [(-1, ValueError), ("1", TypeError)])
def test_shutdown_checks_its_timeout(timeout: Any, kind: type[Exception]) -> None:
    """A timeout that is no number of at least 0 is refused, and the pool goes on."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        with pytest.raises(kind, match=r"^timeout must be a number at least 0, not .*$"):
            pool.shutdown(timeout=timeout)
        assert pool.submit(int).result(PATIENCE) == 0


def test_a_stuck_thread_does_not_keep_the_process() -> None:
    """A process ends although a thread is stuck past shutdown(timeout=...)."""
    done = run_script(
        """
        import threading
        from framework import ThreadPoolExecutorEnhanced
        pool = ThreadPoolExecutorEnhanced(1)
        started = threading.Event()
        pool.submit(lambda: (started.set(), threading.Event().wait()))
        started.wait()
        pool.shutdown(timeout=0)
        print("bye")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")


def test_queued_work_is_finished_at_interpreter_exit() -> None:
    """Without any shutdown the process finishes the queue before it ends."""
    done = run_script(
        """
        from framework import ThreadPoolExecutorEnhanced
        pool = ThreadPoolExecutorEnhanced(1)
        for number in range(20):
            pool.submit(print, number, flush=True)
        """,
        "-W",
        "error",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(number) for number in range(20)]


def test_shutdown_from_inside_a_call() -> None:
    """A call may shut its own pool down: it returns, and the queue is still worked off."""
    pool = ThreadPoolExecutorEnhanced(1)
    go = threading.Event()

    def close() -> str:
        assert go.wait(PATIENCE)
        pool.shutdown()
        return "closed"

    first = pool.submit(close)
    second = pool.submit(lambda: "still")
    go.set()
    assert first.result(PATIENCE) == "closed"
    assert second.result(PATIENCE) == "still"
    settle(pool)


def test_shutdown_from_inside_two_calls_at_once() -> None:
    """Two calls that shut their pool down at the same time do not wait for each other."""
    pool = ThreadPoolExecutorEnhanced(2)
    both = threading.Barrier(2)

    def close() -> str:
        both.wait(PATIENCE)
        pool.shutdown()
        return "closed"

    futures = [pool.submit(close) for _ in range(2)]
    assert [future.result(PATIENCE) for future in futures] == ["closed", "closed"]
    settle(pool)


def test_shutdown_from_a_done_callback() -> None:
    """A done-callback may shut the pool down."""
    pool = ThreadPoolExecutorEnhanced(1)
    stuck, future = start_stuck(pool)
    closed = threading.Event()

    def close(_: Future[str]) -> None:
        pool.shutdown()
        closed.set()

    future.add_done_callback(close)
    stuck.gate.set()
    assert closed.wait(PATIENCE)
    settle(pool)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGUSR1 there")
@pytest.mark.parametrize("cancel", [False, True])
def test_shutdown_from_a_signal_handler_that_interrupts_the_lock(cancel: bool) -> None:
    """A handler may shut down a pool whose lock its own thread holds at that moment."""
    # 1 the main thread takes the pool's lock, as every submit does, 2 the signal arrives,
    # 3 its handler shuts down on the same thread.
    pool = ThreadPoolExecutorEnhanced(1)
    stuck, future = start_stuck(pool)
    queued = pool.submit(int)
    before = signal.signal(
        signal.SIGUSR1, lambda *_: pool.shutdown(wait=True, cancel_futures=cancel)
    )
    try:
        with pool._crew.lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    stuck.gate.set()
    assert future.result(PATIENCE) == "late"
    assert queued.cancelled() is cancel
    settle(pool)


def test_a_signal_handler_that_shuts_down_amid_submit() -> None:
    """A submit that a shutdown interrupts either queues its call or refuses it."""
    # 1 submit queues its call under the lock, 2 before a thread is summoned a handler on
    # the same thread shuts down, dropping the queue, 3 submit goes on.
    pool = ThreadPoolExecutorEnhanced(1)
    summon = pool._crew._summon

    def interrupted_summon() -> None:
        pool.shutdown(wait=True, cancel_futures=False)
        summon()

    pool._crew._summon = interrupted_summon  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(int)
    settle(pool)
    assert pool.get_stats()["queued"] == 0


# -- fork


FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")


@FORKS
def test_a_forked_child_is_refused_at_once() -> None:
    """A pool used in a forked child raises at once and says what to do; the parent's works."""
    done = run_script(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        from framework import ThreadPoolExecutorEnhanced
        pool = ThreadPoolExecutorEnhanced(1)
        pool.submit(int).result()
        child = os.fork()
        if not child:
            try:
                pool.submit(int)
            except RuntimeError as error:
                print(error, flush=True)
            pool.shutdown()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(pool.submit(int).result())
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        (
            "cannot schedule new futures in a forked child: the pool's threads do not exist "
            "here; make a pool of its own after the fork"
        ),
        "0",
    ]


@FORKS
def test_a_fork_inside_a_call() -> None:
    """A call may fork: the child ends by itself, and a new pool works there."""
    done = run_script(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        from framework import ThreadPoolExecutorEnhanced
        def fork():
            child = os.fork()
            if not child:
                with ThreadPoolExecutorEnhanced(1) as fresh:
                    status = fresh.submit(lambda: 7).result()
                os._exit(status)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with ThreadPoolExecutorEnhanced(1) as pool:
            print(pool.submit(fork).result())
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")


@FORKS
def test_a_fork_while_the_lock_is_held() -> None:
    """A fork at a moment when the pool's lock is held leaves no locked lock in the child."""
    done = run_script(
        """
        import os, threading, warnings
        warnings.simplefilter("ignore")
        from framework import ThreadPoolExecutorEnhanced
        pool = ThreadPoolExecutorEnhanced(1)
        held, forked = threading.Event(), threading.Event()
        def hold():
            with pool._crew.lock:
                held.set()
                forked.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if not child:
            pool.get_stats()
            os._exit(5)
        forked.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        pool.shutdown()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


# -- a pool that nobody refers to


def test_a_dropped_pool_ends_its_threads() -> None:
    """Threads of a pool that was dropped without shutdown end, though a future is held."""
    pool = ThreadPoolExecutorEnhanced(1)
    future = pool.submit(threading.current_thread)
    thread = future.result(PATIENCE)
    del pool
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert future.done()


def test_a_callback_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A done-callback that raises is logged; the next one is called and the thread works on."""
    told: list[str] = []

    def bad(_: Future[str]) -> None:
        raise ValueError("callback")

    with ThreadPoolExecutorEnhanced(1) as pool:
        stuck, future = start_stuck(pool)
        future.add_done_callback(bad)
        future.add_done_callback(lambda _: told.append("second"))
        with caplog.at_level(logging.ERROR, "concurrent.futures"):
            stuck.gate.set()
            thread = pool.submit(threading.current_thread).result(PATIENCE)
    assert told == ["second"]
    assert thread is stuck.thread
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


def test_system_exit_in_a_callback_does_not_end_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A done-callback that raises SystemExit is logged, and its thread works on."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        stuck, future = start_stuck(pool)
        future.add_done_callback(lambda _: sys.exit(3))
        stuck.gate.set()
        thread = pool.submit(threading.current_thread).result(PATIENCE)
    assert thread is stuck.thread
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert future.result(0) == "late"


def test_wall_clock_is_not_read() -> None:
    """A wall clock that jumps between two stamps changes no measured time."""
    clock = ManualClock()
    pool = ThreadPoolExecutorEnhanced(1, clock=clock)
    stuck, _ = start_stuck(pool)
    clock.jump_wall(-3_600.0)
    clock.advance(2.0)
    stuck.gate.set()
    settle(pool)
    assert pool.get_stats()["run_time"]["max"] == 2.0


def test_a_pool_that_was_shut_down_is_collected_with_its_threads() -> None:
    """Nothing keeps the threads of a pool that was shut down and let go."""
    pool = ThreadPoolExecutorEnhanced(max_workers=2)
    pool.submit(int).result()
    threads = [weakref.ref(thread) for thread in pool._threads]
    pool.shutdown()
    del pool
    gc.collect()
    assert [thread() for thread in threads] == [None]
