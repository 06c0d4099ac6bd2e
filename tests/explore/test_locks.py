"""Modelled locks: a paused actor holds one without blocking the process."""

from __future__ import annotations

import asyncio
import copy
import functools
import io
import logging
import pickle
import queue
import re
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from framework import background_task, current_task, get_task_manager
from pytest_asyncframe._explore.locks.model import ModelLock, ModelRLock
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.schedule import Default
from pytest_asyncframe._turns.actors import TestEndedError
from pytest_asyncframe._turns.choices import RandomChooser
from pytest_asyncframe.clock import VirtualDeadlockError
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import At, one_run


class Drawn:
    """Chooses evenly among all options; see `Strategy`."""

    def __init__(self, seed: int) -> None:
        self._chooser = RandomChooser(seed)

    def choose(self, number: int, kind: str, what: str, options: Any, preempts: bool) -> int:
        """Return the index of the option to take; see `Strategy`."""
        return self._chooser.choose(kind, what, options, preempts)


def pause() -> None:
    """Pass a point of level "framework"."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5)


def in_a_run(body: Callable[[Probe], object], level: Level = "framework") -> None:
    """Run *body* once with the default schedule."""
    one_run(body, Default(), level)


def is_modelled(lock: object) -> bool:
    """Whether a lock is a model, which says of itself that it is a real one."""
    return type(lock) in (ModelLock, ModelRLock)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"])
def test_a_counter_under_a_lock_never_overlaps(kind: str) -> None:
    """A lock that is held over a point lets nobody in, and nothing blocks outside the clock."""
    met: list[str] = []

    def body(probe: Probe) -> None:
        lock = getattr(threading, kind)()
        count = 0
        inside = 0

        @background_task
        def add() -> None:
            nonlocal count, inside
            with lock:
                inside += 1
                assert inside == 1
                before = count
                pause()
                count = before + 1
                inside -= 1

        for _ in range(3):
            add()
        probe.run_until_idle()
        met.extend(probe.clock.sequencer.outside.met)
        assert count == 3

    for seed in range(20):
        one_run(body, Drawn(seed), "framework")
        one_run(body, Drawn(seed), "locks")
    assert met == []


def test_waiters_are_no_options() -> None:
    """Who waits for a lock is an option only when it is free."""

    def body(probe: Probe) -> None:
        lock = threading.Lock()

        @background_task
        def use() -> None:
            with lock:
                pause()

        use()
        use()
        use()
        probe.run_until_idle()

    steps = one_run(body, At("report_progress()", "use#2"))

    # The second one is let run, and waits for the first one.
    assert [(step.what, step.options) for step in steps[4:7]] == [
        ("started", ("use#2", "use#1", "use#3")),
        ("", ("use#1", "use#3")),
        ("completed", ("use#1", "use#2", "test", "use#3")),
    ]


def test_no_point_before_a_lock_that_is_taken() -> None:
    """Who has to wait for a lock makes no choice before that: others run anyway."""

    def body(probe: Probe) -> None:
        lock = threading.Lock()

        @background_task
        def use() -> None:
            with lock:
                pause()

        use()
        use()
        probe.run_until_idle()

    steps = one_run(body, At("report_progress()", "use#2"), "locks")

    assert [step.options for step in steps if step.what == "acquire lock"] == [("use#1", "use#2")]


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
    told = str(caught.value).replace("deadlocked.<locals>.", "").replace("test_locks.py:", "")
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
    file = r"test_locks\.py:\d+"
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

    with pytest.raises(VirtualDeadlockError, match=r"for only_lock, made at .*, held by itself$"):
        in_a_run(body)


@pytest.mark.parametrize("level", ["framework", "locks"])
def test_others_notice_the_use_of_a_lock(level: Level) -> None:
    """A loop that has taken or released a lock lets others run before its next step."""

    def body(probe: Probe) -> None:
        actor = probe.clock.sequencer.here
        assert actor is not None
        lock = threading.Lock()
        for use in (lock.acquire, lock.release):
            actor.was_seen = False
            use()
            assert actor.was_seen

    in_a_run(body, level)


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

    with pytest.raises(VirtualDeadlockError, match=r"held by take#1, which has ended$"):
        in_a_run(body)


def test_timeouts_are_exact() -> None:
    """A timeout at a lock passes on the virtual clock, to the nanosecond."""
    log: list[tuple[str, bool, float]] = []

    def body(probe: Probe) -> None:
        lock, rlock = threading.Lock(), threading.RLock()

        @background_task
        def hold() -> None:
            with lock, rlock:
                probe.clock.sleep(1)

        @background_task
        def wait(name: str, one: Any, timeout: float) -> None:
            log.append((name, one.acquire(timeout=timeout), probe.clock.monotonic()))

        hold()
        wait("short", lock, 0.25)
        wait("short", rlock, 0.75)
        wait("long", lock, 1.25)
        wait("long", rlock, 1.5)
        probe.run_until_idle()

    in_a_run(body)

    assert log == [
        ("short", False, 0.25),
        ("short", False, 0.75),
        ("long", True, 1.0),
        ("long", True, 1.0),
    ]


def test_tries_do_not_wait() -> None:
    """A lock that is taken is refused at once without blocking, or with a timeout of 0."""

    def body(probe: Probe) -> None:
        lock = threading.Lock()
        assert lock.acquire(False)
        assert not lock.acquire(False)
        assert not lock.acquire(timeout=0)
        assert not lock.acquire(blocking=False)
        assert lock.locked()
        lock.release()
        assert not lock.locked()
        assert probe.clock.monotonic() == 0

    in_a_run(body)


def test_who_only_tries_lets_time_pass() -> None:
    """A loop that does nothing but try to take a lock gets it when its holder releases it."""

    def body(probe: Probe) -> None:
        lock = threading.Lock()

        @background_task
        def hold() -> None:
            with lock:
                probe.clock.sleep(1)

        @background_task
        def spin() -> float:
            while not lock.acquire(blocking=False):
                pass
            return probe.clock.monotonic()

        hold()
        spinning = spin()
        assert probe.run_until_complete(spinning).result == 1.0

    in_a_run(body)


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


def test_a_condition_hands_over() -> None:
    """Producers and consumers on one condition pass everything on, under any schedule."""

    def body(probe: Probe) -> None:
        ready = threading.Condition()
        items: list[int] = []
        got: list[int] = []

        @background_task
        def take() -> None:
            with ready:
                ready.wait_for(lambda: items)
                pause()
                got.append(items.pop())

        @background_task
        def put(item: int) -> None:
            with ready:
                items.append(item)
                pause()
                ready.notify()

        take()
        take()
        put(1)
        put(2)
        probe.run_until_idle()
        assert sorted(got) == [1, 2]
        assert not probe.clock.sequencer.outside.met

    for seed in range(20):
        one_run(body, Drawn(seed), "locks")


def test_what_is_built_on_locks() -> None:
    """Queues, semaphores, events and barriers keep their promises, under any schedule."""

    def body(probe: Probe) -> None:
        jobs: queue.Queue[int] = queue.Queue(maxsize=1)
        slots, done, meeting = threading.Semaphore(1), threading.Event(), threading.Barrier(2)
        inside: list[int] = []
        got: list[int] = []

        @background_task
        def produce() -> None:
            for number in range(3):
                jobs.put(number)
            meeting.wait()

        @background_task
        def consume() -> None:
            for _ in range(3):
                with slots:
                    inside.append(1)
                    got.append(jobs.get())
                    pause()
                    assert inside.pop() == 1
                    assert not inside
            meeting.wait()
            done.set()

        produce()
        consume()
        background_task(done.wait)()
        probe.run_until_idle()
        assert (got, done.is_set()) == ([0, 1, 2], True)
        assert not probe.clock.sequencer.outside.met

    for seed in range(20):
        one_run(body, Drawn(seed), "locks")


def test_a_thread_that_is_no_actor() -> None:
    """A lock that a thread outside of the clock releases lets the next actor have it."""
    met: list[str] = []

    def body(probe: Probe) -> None:
        lock = threading.Lock()
        lock.acquire()
        main = threading.get_ident()
        acquired = threading.Event()

        def release() -> None:
            while sys._current_frames()[main].f_code.co_name != "wait_for_kick":
                pass
            lock.release()
            # Its end would let the next actor run too.
            assert acquired.wait(10)

        # Not known as code of the user's, as with the threads of libraries.
        thread = threading.Thread(target=functools.partial(release), name="releaser")
        thread.start()
        assert lock.acquire()
        acquired.set()
        thread.join()
        met.extend(probe.clock.sequencer.outside.met)

    in_a_run(body)

    assert met == ["the thread releaser, which works outside the clock"]


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
        f"Lock made at test_locks.py:{here - 1}": account.lock,
        f"Lock made at test_locks.py:{here + 10}": Shop(threading.Lock()).other,
    }


def test_a_lock_is_named_by_where_it_is_kept() -> None:
    """A lock is named by what its line assigns it to, with the class of an attribute."""
    names: list[tuple[str, str]] = []

    def body(probe: Probe) -> None:
        names.extend((name, lock.origin.name) for name, lock in made_in_many_ways().items())

    in_a_run(body)

    assert [found for _, found in names] == [name for name, _ in names]


def test_double_checked_initialisation() -> None:
    """A value that is made under a lock, and looked at again there, is made once."""

    def body(probe: Probe) -> None:
        lock = threading.Lock()
        made: list[int] = []

        @background_task
        def get() -> None:
            if not made:
                pause()
                with lock:
                    if not made:
                        pause()
                        made.append(1)

        for _ in range(3):
            get()
        probe.run_until_idle()
        assert made == [1]

    for seed in range(50):
        one_run(body, Drawn(seed), "locks")


def test_a_value_used_after_its_lock() -> None:
    """The point after a release finds what should have been done under the lock."""

    def body(probe: Probe) -> None:
        lock = threading.Lock()
        stock = 1

        @background_task
        def buy() -> None:
            nonlocal stock
            with lock:
                enough = stock > 0
            if enough:
                stock -= 1

        buy()
        buy()
        probe.run_until_idle()
        assert stock == 0

    one_run(body, Default(), "locks")
    with pytest.raises(AssertionError, match=r"^assert -1 == 0$"):
        one_run(body, At("released lock", "buy#2"), "locks")


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

    with pytest.raises(VirtualDeadlockError):
        one_run(body, At("report_progress()", "back#1"))

    assert [kept[0].is_free(), kept[1]._lock.is_free()] == [True, True]


def test_a_wait_ends_with_its_test() -> None:
    """A thread that waits on a condition leaves though the lock was never released."""
    kept: list[str] = []
    ends: list[type[BaseException]] = []

    def body(probe: Probe) -> None:
        for lock in (threading.Lock(), threading.RLock()):
            changed = threading.Condition(lock)

            @background_task
            def wait(changed: threading.Condition) -> None:
                try:
                    with changed:
                        changed.wait()
                except BaseException as error:
                    ends.append(type(error))
                    raise

            @background_task
            def leave_locked(changed: threading.Condition) -> None:
                changed.acquire()

            wait(changed)
            leave_locked(changed)
        probe.clock.sleep(1)
        kept.extend(actor.name for actor in probe.clock.sequencer.actors.values())

    in_a_run(body)

    assert ends == [TestEndedError, TestEndedError]
    assert len(kept) == 3
    assert not {thread.name for thread in threading.enumerate()} & set(kept) - {"MainThread"}


class Framed(logging.Handler):
    """Calls the framework while it holds its lock, as a formatter of the user's may."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a point of level "framework"."""
        get_task_manager().get_stats()


def test_a_logging_handler_over_a_point() -> None:
    """A task that is paused in a logging handler blocks nobody outside of the clock."""
    log = logging.getLogger("tests.explore.locks")
    log.setLevel(logging.INFO)

    def body(probe: Probe) -> None:
        handler = Framed()
        log.addHandler(handler)

        @background_task
        def tell() -> None:
            log.info("once")
            log.info("again")

        tell()
        tell()
        probe.run_until_idle()
        log.removeHandler(handler)
        assert is_modelled(handler.lock)
        assert not probe.clock.sequencer.outside.met

    for seed in range(10):
        one_run(body, Drawn(seed), "locks")


def test_logging_has_no_points_of_its_own() -> None:
    """Level "locks" does not let others run where a logging handler takes its lock."""

    def body(probe: Probe) -> None:
        handler = logging.StreamHandler(io.StringIO())
        lock = threading.Lock()

        @background_task
        def tell() -> None:
            with handler.lock or lock, lock:
                pass

        tell()
        tell()
        probe.run_until_idle()

    steps = one_run(body, Default(), "locks")

    assert {step.what for step in steps if step.kind == "lock"} == {
        "acquire lock",
        "released lock",
    }
