"""Pools without threads, shut down, forked, and let go."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import weakref
from concurrent.futures import Future
from typing import Any

import pytest

from framework import TaskTimeoutError, ThreadPoolExecutorEnhanced
from framework._threads.clock import SystemClock
from framework._threads.pool_threads import PoolThread
from tests.framework.pools import clock_apart, run_script, settle, start_stuck
from tests.patience import PATIENCE

# -- no threads to be had


def test_a_thread_that_cannot_start_refuses_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any thread submit raises, and the call is neither queued nor counted."""
    pool = ThreadPoolExecutorEnhanced(1)
    with monkeypatch.context() as patch:
        patch.setattr(PoolThread, "start", raises_no_thread)
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
    monkeypatch.setattr(PoolThread, "start", raises_no_thread)
    queued = pool.submit(threading.current_thread)
    stuck.gate.set()
    assert queued.result(PATIENCE) is stuck.thread
    settle(pool)


def raises_no_thread(_: threading.Thread) -> None:
    """Fail as ``Thread.start`` does when the process has too many."""
    raise RuntimeError("can't start new thread")


class NoTimers(SystemClock):
    """A clock whose timer thread cannot be started."""

    def call_at(self, *_: object, **__: object) -> Any:
        """Fail as it does when the process has too many threads."""
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
    clock = clock_apart()
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


@pytest.mark.extended("processes")
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


@pytest.mark.extended("processes")
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

    def interrupted_summon(missing: int) -> None:
        pool.shutdown(wait=True, cancel_futures=False)
        summon(missing)

    pool._crew._summon = interrupted_summon  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(int)
    settle(pool)
    assert pool.get_stats()["queued"] == 0


# -- fork


FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")


@pytest.mark.extended("processes")
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
            "here; create a new pool after the fork"
        ),
        "0",
    ]


@pytest.mark.extended("processes")
@FORKS
def test_a_fork_inside_a_call() -> None:
    """A call may fork: the child ends, and a new pool works in it."""
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


@pytest.mark.extended("processes")
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


def test_wall_clock_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that jumps between two stamps changes no measured time."""
    clock = clock_apart()
    pool = ThreadPoolExecutorEnhanced(1, clock=clock)
    stuck, _ = start_stuck(pool)
    monkeypatch.setattr(clock, "time", lambda: -3_600.0)
    clock.advance(2.0)
    stuck.gate.set()
    settle(pool)
    assert pool.get_stats()["run_time"]["max"] == 2.0


def test_a_pool_that_was_shut_down_is_collected_with_its_threads() -> None:
    """Nothing keeps a reference to the threads of a pool that was shut down and dropped."""
    pool = ThreadPoolExecutorEnhanced(max_workers=2)
    pool.submit(int).result()
    threads = [weakref.ref(thread) for thread in pool._threads]
    pool.shutdown()
    del pool
    gc.collect()
    assert [thread() for thread in threads] == [None]


def test_a_new_thread_has_its_call_before_a_shutdown_can_cancel_it() -> None:
    """When a shutdown cancels new calls, those that threads were already started for still run."""
    pool = ThreadPoolExecutorEnhanced(2)
    with pool._crew.lock:
        # No thread can look into the queue until both the submits and the cancelling are done.
        futures = [pool.submit(int) for _ in range(5)]
        dropped = pool._crew.close(drop=True)
    for item in dropped:
        item.handler.drop(item, None)
    pool.shutdown()
    assert [future.cancelled() for future in futures] == [False, False, True, True, True]
    assert [future.result() for future in futures[:2]] == [0, 0]
