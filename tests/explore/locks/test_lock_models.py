"""Modelled locks pass for real ones; which locks are modelled, and their names."""

from __future__ import annotations

import copy
import pickle
import queue
import sys
import threading
import weakref
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from framework import background_task
from pytest_asyncframe.probe import Probe
from tests.explore.locks.locking import in_a_run, is_modelled, pause
from tests.explore.one_run import At, one_run


def test_errors_are_those_of_real_locks() -> None:
    """A modelled lock refuses what a real one refuses, in the same words."""
    real: list[Any] = [threading.Lock(), threading.RLock()]

    def errors_of(lock: Any) -> list[str]:
        found = []
        for call in (
            lock.release,
            lambda: lock.acquire(False, 1),
            lambda: lock.acquire(timeout=-2),
            lambda: lock.acquire(timeout=threading.TIMEOUT_MAX * 2),
            lambda: lock.acquire(timeout="soon"),
            lambda: pickle.dumps(lock),
            lambda: copy.copy(lock),
            lambda: copy.deepcopy(lock),
        ):
            with pytest.raises((RuntimeError, ValueError, OverflowError, TypeError)) as caught:
                call()
            found.append(repr(caught.value))
        return found

    expected = [errors_of(lock) for lock in real]

    def body(probe: Probe) -> None:
        assert [errors_of(lock) for lock in (threading.Lock(), threading.RLock())] == expected

    in_a_run(body)


def test_a_modelled_lock_passes_for_a_real_one() -> None:
    """Type checks, weak references and the text of a lock are as without an exploration."""
    lock_type: Any = type(threading.Lock())
    rlock_type: Any = type(threading.RLock())
    lock_name: Any = threading.Lock

    def body(probe: Probe) -> None:
        lock: Any = threading.Lock()
        rlock: Any = threading.RLock()
        assert is_modelled(lock)
        assert is_modelled(rlock)
        assert isinstance(lock, lock_type)
        assert isinstance(rlock, rlock_type)
        assert not isinstance(lock, rlock_type)
        if isinstance(lock_name, type):
            assert isinstance(lock, lock_name)
            new_name: Any = threading.Lock
            assert isinstance(lock, new_name)
            assert not isinstance(rlock, new_name)
            assert new_name | None
        assert repr(lock).startswith(f"<unlocked {lock_type.__module__}.{lock_type.__name__} ")
        with lock, rlock, rlock:
            assert repr(lock).startswith("<locked ")
            assert "count=2" in repr(rlock)
        assert weakref.ref(lock)() is lock
        assert {lock: 1, rlock: 2}[lock] == 1

    in_a_run(body)


def test_a_lock_outlives_its_run() -> None:
    """A lock that is kept in a cache works after its run, and is modelled in the next one."""
    kept: list[Any] = []

    def make(probe: Probe) -> None:
        kept.append(threading.Lock())

    def use(probe: Probe) -> None:
        (lock,) = kept

        @background_task
        def hold() -> None:
            with lock:
                pause()

        hold()
        hold()
        probe.run_until_idle()
        assert not probe.clock.sequencer.outside.met

    in_a_run(make)
    with kept[0], ThreadPoolExecutor(1) as pool:
        assert not pool.submit(kept[0].acquire, timeout=0.01).result()
    one_run(use, At("report_progress()", "hold#2"))


def test_locks_of_the_machinery_stay_real() -> None:
    """What the standard library's own executors and threads lock with is not modelled."""

    def body(probe: Probe) -> None:
        @dataclass
        class Shop:
            lock: Any = field(default_factory=threading.Lock)

        with ThreadPoolExecutor(1) as pool:
            assert not is_modelled(vars(pool)["_shutdown_lock"])
        thread: Any = threading.Thread(target=print)
        assert not is_modelled(thread._started._cond._lock)
        assert is_modelled(Shop().lock)
        assert is_modelled(queue.Queue().mutex)
        by_name: defaultdict[str, Any] = defaultdict(threading.Lock)
        assert is_modelled(by_name["a"])

    in_a_run(body)


def made_in_many_ways() -> dict[str, Any]:
    """Return locks by the names that they should have."""

    class Shop:
        shared: Any = threading.Lock()

        def __init__(self, other: Any = None) -> None:
            self.other = other; self.own = threading.RLock()  # fmt: skip  # noqa: E702

    @dataclass
    class Account:
        lock: Any = field(default_factory=threading.Lock)

    by_name: dict[str, Any] = {}
    by_name["a"] = threading.Lock()
    several = [threading.Lock() for _ in range(2)]
    jobs: Any = queue.Queue()
    annotated: threading.Lock = threading.Lock()
    account = Account()
    here = sys._getframe().f_lineno
    return {
        "Shop.shared": Shop.shared,
        "Shop.own": Shop().own,
        "other": Shop(other=threading.Lock()).other,
        'by_name["a"]': by_name["a"],
        "several": several[1],
        "jobs": jobs.mutex,
        "annotated": annotated,
        f"Lock made at test_lock_models.py:{here - 1}": account.lock,
        f"Lock made at test_lock_models.py:{here + 10}": Shop(threading.Lock()).other,
    }


def test_a_lock_is_named_by_where_it_is_kept() -> None:
    """A lock is named by what its line assigns it to, with the class of an attribute."""
    names: list[tuple[str, str]] = []

    def body(probe: Probe) -> None:
        names.extend((name, lock.origin.name) for name, lock in made_in_many_ways().items())

    in_a_run(body)

    assert [found for _, found in names] == [name for name, _ in names]
