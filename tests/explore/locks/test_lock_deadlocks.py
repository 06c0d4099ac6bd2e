"""Deadlocks of modelled locks, which are told at once, and what they leave behind."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from framework import background_task, get_task_manager
from pytest_asyncframe._explore.schedule import Default
from pytest_asyncframe._turns.actors import TestEndedError
from pytest_asyncframe.clock import VirtualDeadlockError
from pytest_asyncframe.probe import Probe
from tests.explore.locks.locking import in_a_run, pause
from tests.explore.one_run import At, one_run
from tests.patience import PATIENCE


def deadlocked(probe: Probe) -> None:
    """Take two locks in both orders."""
    stock_lock = threading.Lock()
    audit_lock = threading.RLock()

    @background_task
    def buy() -> None:
        with stock_lock, audit_lock:
            pass

    @background_task
    def audit() -> None:
        with audit_lock, stock_lock:
            pass

    buy()
    audit()
    probe.run_until_idle()


def test_a_deadlock_is_told_at_once() -> None:
    """Where two actors wait for each other's locks, the test fails and says who holds what."""
    one_run(deadlocked, Default(), "locks")
    with pytest.raises(VirtualDeadlockError) as caught:
        one_run(deadlocked, At("acquire audit_lock", "audit#1"), "locks")

    first = deadlocked.__code__.co_firstlineno
    told = (
        str(caught.value).replace("deadlocked.<locals>.", "").replace("test_lock_deadlocks.py:", "")
    )
    buy, audit = f"{first + 7} in buy", f"{first + 12} in audit"
    assert told == (
        "nothing can continue at 0 s of virtual time:\n"
        f"  MainThread waits to be notified: {first + 17} in deadlocked\n"
        f"  buy#1 waits at {buy} for audit_lock, made at {first + 3}, "
        f"held by audit#1, which waits at {audit}\n"
        f"  audit#1 waits at {audit} for stock_lock, made at {first + 2}, "
        f"held by buy#1, which waits at {buy}"
    )


def test_a_deadlock_that_a_limit_ends() -> None:
    """Where a time limit ends a deadlock, the timeline says who waited for whom."""
    notes: list[str] = []

    def body(probe: Probe) -> None:
        one_lock = threading.Lock()
        other_lock = threading.RLock()

        @background_task(timeout=3)
        def one() -> None:
            with one_lock, other_lock:
                pass

        @background_task
        def other() -> None:
            with other_lock, one_lock:
                pass

        one()
        other()
        probe.clock.sleep(5)
        notes.extend(one.what for one in probe._recorder.moments if isinstance(one.what, str))

    one_run(body, At("acquire other_lock", "other#1"), "locks")

    told = [note for note in notes if note.startswith("deadlock")]
    file = r"test_lock_deadlocks\.py:\d+"
    assert len(told) == 1
    assert re.fullmatch(
        rf"deadlock: one#1 waits for other_lock, made at {file}, held by other#1, which waits "
        rf"at {file} in \S+other; other#1 waits for one_lock, made at {file}, held by one#1, "
        rf"which waits at {file} in \S+one",
        told[0],
    )


def test_a_lock_taken_twice() -> None:
    """Who waits for a lock that it holds itself is told so."""

    def body(probe: Probe) -> None:
        @background_task
        def twice() -> None:
            only_lock = threading.Lock()
            with only_lock, only_lock:
                pass

        twice()
        probe.run_until_idle()

    with pytest.raises(
        VirtualDeadlockError,
        match=r"^nothing can continue at 0 s of virtual time:\n(?s:.*) for "
        r"only_lock, made at .*, held by itself$",
    ):
        in_a_run(body)


def test_a_lock_over_an_await() -> None:
    """Two coroutines of one loop that hold a lock over an await are a deadlock, and told so."""
    told: list[str] = []

    @background_task
    async def hold(lock: threading.Lock) -> None:
        with lock:
            await get_task_manager().clock.asleep(1)

    async def main(probe: Probe) -> None:
        lock = threading.Lock()
        tasks = [hold(lock), hold(lock)]
        first, second = [await probe.completed(task, check=False) for task in tasks]
        told[:] = str(first.error), str(second.error)

    in_a_run(lambda probe: asyncio.run(main(probe)))

    assert told[0] == "None"
    assert told[1].endswith(", held by itself, maybe in another coroutine of its event loop")


def test_a_lock_of_a_module_that_a_run_imports(tmp_path: Path) -> None:
    """A lock that a module makes as it is imported in a run is named after the module."""
    file, names = tmp_path / "shop.py", {"__name__": "shop"}
    file.write_text("import threading\nstock_lock = threading.Lock()\n")
    in_a_run(lambda _: exec(compile(file.read_text(), file, "exec"), names))

    lock: Any = names["stock_lock"]
    assert str(lock.origin) == "shop.stock_lock, made at shop.py:2"


def test_a_lock_that_was_never_released() -> None:
    """Who waits for a lock whose holder has ended is told so."""

    def body(probe: Probe) -> None:
        lock = threading.Lock()

        @background_task
        def take() -> None:
            lock.acquire()

        take()
        take()
        probe.run_until_idle()

    with pytest.raises(
        VirtualDeadlockError,
        match=r"^nothing can continue at 0 s of virtual time:\n(?s:.*) held by "
        r"take#1, which has ended$",
    ):
        in_a_run(body)


def test_locks_are_free_after_a_deadlock() -> None:
    """When a test with a deadlock ends, its threads leave, and their locks are free."""
    kept: list[Any] = []

    def body(probe: Probe) -> None:
        kept[:] = one, two = threading.Lock(), threading.Condition()

        @background_task
        def there() -> None:
            with one:
                pause()
                with two:
                    two.wait()

        @background_task
        def back() -> None:
            with two:
                pause()
                with one:
                    pass

        there()
        back()
        probe.run_until_idle()

    with pytest.raises(
        VirtualDeadlockError, match=r"^nothing can continue at 0 s of virtual time:\n"
    ):
        one_run(body, At("report_progress()", "back#1"))

    assert [kept[0].is_free(), kept[1]._lock.is_free()] == [True, True]


def test_a_wait_ends_with_its_test() -> None:
    """A thread that waits on a condition leaves though the lock was never released."""
    kept: list[threading.Thread] = []
    ends: list[type[BaseException]] = []

    def body(probe: Probe) -> None:
        for lock in (threading.Lock(), threading.RLock()):
            changed = threading.Condition(lock)

            @background_task
            def wait(changed: threading.Condition) -> None:
                kept.append(threading.current_thread())
                try:
                    with changed:
                        changed.wait()
                except BaseException as error:
                    ends.append(type(error))
                    raise

            @background_task
            def leave_locked(changed: threading.Condition) -> None:
                kept.append(threading.current_thread())
                changed.acquire()

            wait(changed)
            leave_locked(changed)
        probe.clock.sleep(1)

    in_a_run(body)

    assert ends == [TestEndedError, TestEndedError]
    assert len(kept) == 4
    for thread in kept:
        thread.join(timeout=PATIENCE)
    assert not any(thread.is_alive() for thread in kept)
