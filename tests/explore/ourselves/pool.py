"""Scenarios of the pool: its queue, its threads, and threads that wait for its calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import suppress
from typing import Any

from framework import TaskTimeoutError
from framework._threads.queue import item_queue
from framework.exceptions import DeadlockError, QueueFullError
from tests.explore.ourselves.run import Gate, Run


def discard_or_take(run: Run) -> None:
    """A queued call is cancelled while a thread takes it."""
    pool, done = run.pool(2), list[int]()

    def submit() -> None:
        pool.submit(done.append, 1)
        pool.submit(done.append, 2)

    def cancel() -> None:
        if pool.submit(done.append, 3).cancel():
            done.append(3)

    run.together(submit, cancel)
    pool.shutdown()
    assert sorted(done) == [1, 2, 3]
    run.check_pool(pool)


def put_or_close(run: Run) -> None:
    """Calls are submitted while the pool is shut down; each is run or refused."""
    pool, futures, refused = run.pool(2), list[Future[int]](), list[int]()

    def submit() -> None:
        for number in range(2):
            try:
                futures.append(pool.submit(int, number))
            except RuntimeError:
                refused.append(number)

    run.together(submit, submit, pool.shutdown)
    assert len(futures) + len(refused) == 4
    assert all(future.done() for future in futures)
    run.check_pool(pool)


def put_or_park(run: Run) -> None:
    """Calls come while the last thread parks: none is left in the queue."""
    pool = run.pool(1)
    pool.submit(int).result()

    def submit() -> None:
        assert pool.submit(int, 1).result() == 1

    run.together(submit, submit)
    pool.shutdown()
    run.check_pool(pool)


def drop_or_cancel(run: Run) -> None:
    """Queued calls are cancelled by their caller and by a shutdown at once."""
    pool, told = run.pool(1), list[int]()
    started = Gate()
    pool.submit(started.wait)
    futures = [pool.submit(int) for _ in range(3)]
    for future in futures:
        future.add_done_callback(lambda its: told.append(futures.index(its)))

    def cancel() -> None:
        for future in futures:
            future.cancel()

    def close() -> None:
        pool.shutdown(wait=False, cancel_futures=True)

    run.together(cancel, close, started.open)
    pool.shutdown()
    assert all(future.done() for future in futures)
    assert sorted(told) == [0, 1, 2], told
    assert all(future._state != "CANCELLED" for future in futures)
    run.check_pool(pool)


def abandon_or_end(run: Run) -> None:
    """A call ends at the moment of its limit, while others wait for its thread."""
    pool = run.pool(1, task_timeout=1.0)
    late = pool.submit(run.sleep, 1.0)
    after = [pool.submit(int), pool.submit(int)]

    def wait() -> None:
        with contextlib.suppress(TaskTimeoutError):
            late.result()

    run.together(wait, *(future.result for future in after))
    pool.shutdown()
    run.check_pool(pool)


def abandoned_end(run: Run) -> None:
    """Abandoned calls end while others are queued."""
    pool = run.pool(1, task_timeout=1.0)
    stuck = pool.submit(run.sleep, 2.0)

    def submit() -> None:
        run.sleep(2.0)
        assert pool.submit(int).result() == 0

    run.together(submit, submit)
    pool.shutdown()
    assert isinstance(stuck.exception(), TaskTimeoutError)
    run.check_pool(pool)


def wait_inside(run: Run) -> None:
    """A call waits, with a timeout, for a call that comes at the same time."""
    pool = run.pool(1)
    inner: list[Future[int]] = []
    given = Gate()

    def outer() -> int:
        given.wait()
        return inner[0].result(5)  # steady: virtual time

    def submit() -> None:
        inner.append(pool.submit(int, 7))
        given.open()

    def others() -> None:
        assert pool.submit(int, 3).result() == 3

    first = pool.submit(outer)
    run.together(submit, others)
    assert first.result() == 7
    pool.shutdown()
    run.check_pool(pool)


def wait_inline(run: Run) -> None:
    """A call waits for a queued one without a timeout, while a thread may take that one."""
    pool, runs = run.pool(2), list[int]()
    inner = []

    def outer() -> None:
        inner.append(pool.submit(runs.append, 1))
        inner[-1].result()

    def submit() -> None:
        pool.submit(outer).result()

    run.together(submit, submit)
    pool.shutdown()
    assert runs == [1, 1]
    run.check_pool(pool)


def wait_in_a_circle(run: Run) -> None:
    """Two calls wait for each other: one of them gets an error."""
    pool, futures, met = run.pool(2), list[Future[Any]](), Gate()

    def wait_for(other: int) -> bool:
        met.wait()
        try:
            futures[other].result()
        except DeadlockError:
            return True
        return False

    futures += [pool.submit(wait_for, 1), pool.submit(wait_for, 0)]
    run.together(met.open)
    pool.shutdown()
    assert [future.result() for future in futures].count(True) == 1
    run.check_pool(pool)


def figures_or_end(run: Run) -> None:
    """Figures are read while calls end: none is counted twice, and none disappears."""
    pool = run.pool(2)
    seen: list[dict[str, Any]] = []

    def submit() -> None:
        futures = [pool.submit(int) for _ in range(2)]
        futures[1].cancel()

    def read() -> None:
        seen.extend(pool.get_stats() for _ in range(2))

    run.together(submit, submit, read)
    pool.shutdown()
    run.check_pool(pool)
    before = 0
    for stats in seen:
        ended = sum(stats[name] for name in ("completed", "failed", "cancelled", "timed_out"))
        assert before <= ended <= stats["submitted"] - stats["queued"], seen
        before = ended


def broken_or_put(run: Run) -> None:
    """The initializer fails while calls are submitted: each caller is told."""

    def fail() -> None:
        raise ValueError

    pool = run.pool(2, initializer=fail)

    def submit() -> None:
        try:
            future = pool.submit(int)
        except BrokenExecutor:
            return
        assert isinstance(future.exception(), BrokenExecutor)

    run.together(submit, submit)
    pool.shutdown()
    run.check_pool(pool)


def refused_threads(run: Run) -> None:
    """The system starts no second thread: what is queued is run by the first."""
    pool = run.pool(2)
    run.refuse_threads(lambda name: name not in ("pool_0", "submit"))

    def submit() -> None:
        for _ in range(2):
            assert pool.submit(int).result() == 0

    run.together(submit, submit)
    pool.shutdown()
    run.check_pool(pool)


def full_queue(run: Run) -> None:
    """Calls compete for the last place in the queue: one at most gets it."""
    pool, met = run.pool(1, queue_size=1), Gate()
    pool.submit(met.wait)
    got: list[Future[int]] = []

    def submit() -> None:
        with contextlib.suppress(QueueFullError):
            got.append(pool.submit(int))

    # The thread may have taken the first call or not: it is there for one more in either case.
    run.together(submit, submit)
    assert len(got) <= 1 + (pool.get_stats()["queued"] < 1)
    met.open()
    pool.shutdown()
    run.check_pool(pool)


def tidy_or_take(run: Run) -> None:
    """The queue is tidied while threads take from it: no call is lost."""
    run.replace(item_queue, "_SLACK", -2)
    pool, done = run.pool(2), list[int]()

    def submit() -> None:
        futures = [pool.submit(done.append, 1) for _ in range(3)]
        for future in futures[1:]:
            if future.cancel():
                done.append(1)

    run.together(submit, submit)
    pool.shutdown()
    assert len(done) == 6
    run.check_pool(pool)


def wait_in_a_row(run: Run) -> None:
    """Calls of a pool with one thread wait for each other in a row, while others are queued."""
    pool = run.pool(1)

    def outer(depth: int, timeout: float | None) -> int:
        return 0 if depth == 0 else 1 + pool.submit(outer, depth - 1, timeout).result(timeout)

    def submit(timeout: float | None) -> None:
        assert pool.submit(outer, 2, timeout).result() == 2

    run.together(lambda: submit(5.0), lambda: submit(None))
    assert run.clock.monotonic() < 5
    pool.shutdown()
    run.check_pool(pool)


def abandon_while_waiting(run: Run) -> None:
    """A call passes its limit while it waits for another one, which ends just then."""
    pool = run.pool(1, task_timeout=1.0)

    def outer(timeout: float | None) -> None:
        pool.submit(run.sleep, 0.5).result(timeout)
        pool.submit(run.sleep, 0.5).result(timeout)

    def submit(timeout: float | None) -> None:
        future = pool.submit(outer, timeout)
        assert future.exception() is None or isinstance(future.exception(), TaskTimeoutError)

    run.together(lambda: submit(5.0), lambda: submit(None))
    pool.shutdown()
    run.check_pool(pool)


def close_while_waiting(run: Run) -> None:
    """The pool is shut down, and its queue dropped, while a call waits for a queued one."""
    pool = run.pool(1)

    def outer(timeout: float | None) -> None:
        with suppress(RuntimeError, CancelledError, TimeoutError):
            pool.submit(int).result(timeout)

    futures = [pool.submit(outer, timeout) for timeout in (5.0, None)]

    def close() -> None:
        pool.shutdown(wait=False, cancel_futures=True)

    run.together(close)
    pool.shutdown()
    assert all(future.done() for future in futures)
    run.check_pool(pool)


def limit_held_up(run: Run) -> None:
    """Time passes at any moment of calls with a limit: each ends in one of two ways."""
    pool = run.pool(1, task_timeout=1.0)

    def submit() -> None:
        future = pool.submit(int)
        with suppress(TaskTimeoutError):
            assert future.result() == 0

    run.together(submit, submit, run.hurry, run.hurry)
    pool.shutdown()
    run.check_pool(pool)


SCENARIOS: list[Callable[[Run], None]] = [
    discard_or_take,
    put_or_close,
    put_or_park,
    drop_or_cancel,
    abandon_or_end,
    abandoned_end,
    wait_inside,
    wait_inline,
    wait_in_a_circle,
    figures_or_end,
    broken_or_put,
    refused_threads,
    full_queue,
    tidy_or_take,
    wait_in_a_row,
    abandon_while_waiting,
    close_while_waiting,
    limit_held_up,
]
