"""Calls of a pool that wait for one another, and what calls raise."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import (
    CancelledError,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from typing import Any

import pytest

from framework import ThreadPoolExecutorEnhanced
from framework.exceptions import DeadlockError
from tests.framework.pools import raises, settle, start_stuck
from tests.patience import PATIENCE

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
    with pytest.raises(TimeoutError, match=r"^$"):
        queued.result(0)
    stuck.gate.set()
    assert queued.result(PATIENCE) is stuck.thread
    settle(pool)


def test_a_circle_of_waits_is_refused() -> None:
    """Two calls that wait for each other get an error that names the circle, at once."""
    futures: dict[str, Future[Any]] = {}
    all_known = threading.Barrier(3)

    def wait_for(name: str) -> Any:
        all_known.wait(PATIENCE)
        return futures[name].result()

    with ThreadPoolExecutorEnhanced(2) as pool:
        futures["a"] = pool.submit(wait_for, "b")
        futures["b"] = pool.submit(wait_for, "a")
        all_known.wait(PATIENCE)
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
        return own[0].result(0.001)  # steady: it must run out, and nothing else can come

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
    with pytest.raises(CancelledError, match=r"^$"):
        future.result(PATIENCE)
    assert ran == []


# -- waiting for what was cancelled


def test_a_cancelled_call_is_done_at_once() -> None:
    """A call cancelled in the queue is done for wait() and as_completed(), before it comes up."""
    pool = ThreadPoolExecutorEnhanced(1)
    stuck, _ = start_stuck(pool)
    queued = pool.submit(int)
    assert queued.cancel()
    assert queued.cancel()
    assert wait([queued], PATIENCE).done == {queued}
    assert list(as_completed([queued], PATIENCE)) == [queued]
    stuck.gate.set()
    settle(pool)


def test_whoever_waits_hears_of_a_cancellation() -> None:
    """wait() on another thread ends when the call is cancelled in the queue."""
    pool = ThreadPoolExecutorEnhanced(1)
    stuck, _ = start_stuck(pool)
    queued = pool.submit(int)
    with ThreadPoolExecutor(1) as aside:
        waiting = aside.submit(wait, [queued], PATIENCE)
        assert queued.cancel()
        assert waiting.result(PATIENCE).done == {queued}
    stuck.gate.set()
    settle(pool)


def test_calls_that_a_shutdown_drops_are_done() -> None:
    """Calls cancelled by shutdown(cancel_futures=True) are done for wait(), each told once."""
    pool = ThreadPoolExecutorEnhanced(1)
    stuck, _ = start_stuck(pool)
    queued = [pool.submit(int) for _ in range(3)]
    told: list[Future[int]] = []
    for future in queued:
        future.add_done_callback(told.append)
    assert queued[0].cancel()
    pool.shutdown(wait=False, cancel_futures=True)
    assert wait(queued, PATIENCE).done == set(queued)
    assert told == queued
    stuck.gate.set()
    settle(pool)


class RememberingPool(ThreadPoolExecutorEnhanced):
    """A pool that knows every future that it gave."""

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self.given: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call and remember its future."""
        future = super().submit(fn, *args, **kwargs)
        self.given.append(future)
        return future


def test_what_map_cancels_is_done() -> None:
    """The calls that map() cancels when its caller gives up are done for wait()."""
    pool = RememberingPool(1)
    stuck, _ = start_stuck(pool)
    with pytest.raises(TimeoutError, match=r"^$"):
        list(pool.map(int, [1, 2], timeout=0))
    cancelled = pool.given[1:]
    assert wait(cancelled, PATIENCE).done == set(cancelled)
    stuck.gate.set()
    settle(pool)


# -- what calls raise


def test_stop_iteration_becomes_a_runtime_error() -> None:
    """StopIteration, which asyncio cannot carry, arrives as RuntimeError with it as cause."""
    stop = StopIteration(3)
    with ThreadPoolExecutorEnhanced(1) as pool:
        error = pool.submit(raises(stop)).exception(PATIENCE)
    assert isinstance(error, RuntimeError)
    assert error.__cause__ is stop


async def test_stop_iteration_wakes_who_awaits() -> None:
    """Awaiting a call that raises StopIteration raises an error."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        waiting = asyncio.get_running_loop().run_in_executor(pool, raises(StopIteration()))
        with pytest.raises(
            RuntimeError,
            match=r"^tests\.framework\.pools\.raises\.<locals>\.call raised StopIteration$",
        ):
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
        with pytest.raises(FalsyError, match=r"^$"):
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
