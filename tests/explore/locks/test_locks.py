"""Modelled locks: a paused actor holds one without blocking the process."""

from __future__ import annotations

import functools
import io
import logging
import queue
import sys
import threading
from typing import Any

import pytest

from framework import background_task, get_task_manager
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.schedule import Default
from pytest_asyncframe.probe import Probe
from tests.explore.locks.locking import Drawn, in_a_run, is_modelled, pause
from tests.explore.one_run import At, one_run
from tests.patience import PATIENCE


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
        ("completed", ("use#1", "use#2", "use#3")),
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
            assert acquired.wait(PATIENCE)

        # Not known as code of the user's, as with the threads of libraries.
        thread = threading.Thread(target=functools.partial(release), name="releaser")
        thread.start()
        assert lock.acquire()
        acquired.set()
        thread.join()
        met.extend(probe.clock.sequencer.outside.met)

    in_a_run(body)

    assert met == ["the thread releaser, which works outside the clock"]


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
