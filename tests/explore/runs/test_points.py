"""Points: where the running actor lets others run, if the chooser says so."""

from __future__ import annotations

import _thread
import asyncio
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from framework import background_task, current_task, get_task_manager
from framework.testing import Queued
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe._explore.schedule import Default, Step
from pytest_asyncframe._turns.choices import RandomChooser
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import StuckError
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import At, Nth, Wanted, one_run
from tests.patience import PATIENCE


def report() -> None:
    """Pass a point of level "framework"."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5)


def test_another_runs_at_a_point() -> None:
    """Where the chooser prefers another task, it runs first, and the paused one goes on later."""
    log: list[str] = []

    @background_task
    def step(name: str) -> None:
        log.append(name)
        report()
        log.append(name.upper())

    def body(probe: Probe) -> None:
        step("a")
        step("b")
        probe.run_until_idle()

    one_run(body, Default())
    assert "".join(log) == "aAbB"
    log.clear()
    steps = one_run(body, At("report_progress()", "step#2"))

    assert "".join(log) == "abBA"
    assert [step for step in steps if step.preempted] == [
        ("framework", "report_progress()", ("step#1", "step#2"), True, 1)
    ]


@pytest.mark.parametrize("on_a_loop", [False, True])
def test_who_waits_for_all_tasks_goes_on_once(on_a_loop: bool) -> None:
    """A test that waits until all tasks have ended is an option once the last one has."""

    @background_task
    def step() -> None:
        report()

    async def main(probe: Probe) -> None:
        step()
        step()
        await probe.settled()

    def body(probe: Probe) -> None:
        if on_a_loop:
            asyncio.run(main(probe))
        else:
            step()
            step()
            probe.run_until_idle()

    steps = one_run(body, Default())

    assert [(step.what, step.options) for step in steps if "test" in step.options[1:]] == [
        ("completed", ("step#2", "test"))
    ]


def test_a_run_has_the_same_steps_again() -> None:
    """Two runs with the same choices have the same steps, with the same identities."""

    @background_task
    async def call(name: str) -> str:
        await get_task_manager().clock.asleep(1)
        return await asyncio.to_thread(str.upper, name)

    async def main(probe: Probe) -> list[str]:
        return [await probe.manager.get_result(task) for task in [call("a"), call("b")]]

    def body(probe: Probe) -> None:
        assert asyncio.run(main(probe)) == ["A", "B"]

    first, second = (one_run(body, Wanted("call#2", "upper#2")) for _ in range(2))

    assert first == second
    assert {name for step in first for name in step.options} >= {"call#1", "call#2", "test"}


def test_no_points_without_a_chooser(asyncframe: Probe) -> None:
    """Without an exploration a point does nothing."""
    sequencer = asyncframe.clock.sequencer
    log: list[str] = []

    @background_task
    def step() -> None:
        log.append("step")

    step()
    sequencer.point("framework", "here")
    log.append("test")
    asyncframe.run_until_idle()

    assert log == ["test", "step"]


def test_a_task_does_not_start_before_its_submission_has_returned() -> None:
    """A point inside the call that submits a task does not let it start, on a loop either."""
    log: list[str] = []

    @background_task
    def step() -> None:
        log.append("step")

    async def main() -> None:
        step()
        log.append("returned")

    def on_loop(probe: Probe) -> None:
        asyncio.run(main())
        probe.run_until_idle()

    def on_thread(probe: Probe) -> None:
        step()
        log.append("returned")
        probe.run_until_idle()

    for body in (on_loop, on_thread):
        log.clear()
        one_run(body, Wanted("step#1"))
        assert log == ["returned", "step"]


def test_timers_of_one_moment() -> None:
    """The chooser decides which timer of one moment fires first."""
    log: list[str] = []

    def body(probe: Probe) -> None:
        for name in "abc":
            probe.clock.call_at(1, lambda name=name: log.append(name))  # type: ignore[misc]
        probe.clock.sleep(2)

    one_run(body, Default())
    assert "".join(log) == "abc"
    log.clear()
    first, second = (option for step in one_run(body, Default()) for option in step.options[1:2])
    log.clear()
    one_run(body, Wanted(second))

    assert first != second
    assert "".join(log) == "bac" or "".join(log) == "cab"


def test_a_timer_may_wait() -> None:
    """A timer's function runs on an actor of its own, so it can sleep while others run."""
    log: list[str] = []

    def body(probe: Probe) -> None:
        def fire() -> None:
            log.append("fires")
            probe.clock.sleep(5)
            log.append("slept")

        probe.clock.call_at(1, fire)
        probe.clock.sleep(3)
        log.append("test at 3")
        probe.clock.sleep(4)
        log.append(f"test at {probe.clock.monotonic():g}")

    one_run(body, Default())

    assert log == ["fires", "test at 3", "slept", "test at 7"]


def test_a_timers_thread_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run leaves no thread behind that waits for another timer."""
    idents: list[int] = []
    ended, has_ended = threading.Event(), Sequencer.has_ended

    def note(self: Sequencer, ident: int) -> None:
        has_ended(self, ident)
        # A thread of the test before may only end now.
        if ident in idents:
            ended.set()

    def body(probe: Probe) -> None:
        probe.clock.call_at(1, lambda: idents.append(_thread.get_ident()))
        probe.clock.sleep(2)
        assert not ended.is_set()

    monkeypatch.setattr(Sequencer, "has_ended", note)
    one_run(body, Default())

    assert ended.wait(PATIENCE)


def test_an_error_of_a_timer() -> None:
    """An error of a timer's function is raised in the test, which waits."""

    def body(probe: Probe) -> None:
        probe.clock.call_at(1, lambda: 1 / 0)
        probe.clock.sleep(3)

    with pytest.raises(ZeroDivisionError, match=r"^division by zero$"):
        one_run(body, Default())


def test_who_is_blocked_is_no_option() -> None:
    """An actor that waits until it is free is chosen only once it is."""
    taken = [True]
    log: list[str] = []

    @background_task
    def wait(sequencer: Sequencer) -> None:
        actor = sequencer.here
        assert actor is not None
        log.append(str(sequencer.block(actor, lambda: not taken[0], None, "to be free")))

    @background_task
    def free() -> None:
        report()
        taken[0] = False
        report()
        log.append("freed")

    def body(probe: Probe) -> None:
        wait(probe.clock.sequencer)
        free()
        probe.run_until_idle()

    steps = one_run(body, At("report_progress()", "wait#1"))

    assert log == ["True", "freed"]
    reports = [step.options for step in steps if step.what == "report_progress()"]
    assert reports == [("free#1", "wait#1")]


def test_who_is_blocked_gives_up_in_time() -> None:
    """An actor that waits until it is free goes on at its time though it is not."""

    def body(probe: Probe) -> None:
        sequencer = probe.clock.sequencer
        actor = sequencer.here
        assert actor is not None
        assert not sequencer.block(actor, lambda: False, 3_000_000_000, "to be free")
        assert probe.clock.monotonic() == 3

    one_run(body, Default())


def test_who_is_blocked_gives_up_beside_a_thread_outside() -> None:
    """An actor that waits until it is free sees that nothing happens outside, as others do."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()

    def body(probe: Probe) -> None:
        sequencer = probe.clock.sequencer
        actor = sequencer.here
        assert actor is not None
        sequencer.outside.add_thread(thread)
        assert not sequencer.block(actor, lambda: False, 3_000_000_000, "to be free")
        assert probe.clock.monotonic() == 3

    try:
        one_run(body, Default())
    finally:
        ended.set()
        thread.join()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only there are threads seen")
def test_who_is_blocked_for_ever_is_told() -> None:
    """A test that waits for what nobody frees is told stuck beside a thread that reads a pipe."""
    reading, writing = os.pipe()
    thread = threading.Thread(target=os.read, args=(reading, 1))
    thread.start()

    def body(probe: Probe) -> None:
        sequencer = probe.clock.sequencer
        sequencer.watchdog.patience = 0.2
        sequencer.outside.stirred.add(thread)
        actor = sequencer.here
        assert actor is not None
        # It may yet read something, and wake somebody: no deadlock is sure.
        sequencer.block(actor, lambda: False, None, "to be free")

    try:
        with pytest.raises(StuckError, match=r"^nothing has happened for 0\.2 s of real time"):
            one_run(body, Default())
    finally:
        os.write(writing, b"x")
        thread.join()
        os.close(reading)
        os.close(writing)


def test_who_gives_up_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor that gives up while nobody runs goes on at once, and not when it looks around."""

    def look(*_: object) -> None:
        pytest.fail("it got no turn")

    sequencer = Sequencer(moves=True, one_at_a_time=True, chooser=RandomChooser(0))
    actor = sequencer.first = sequencer.enter()
    monkeypatch.setattr(sequencer.watchdog, "check", look)
    assert not sequencer.block(actor, lambda: False, 3, "to be free")
    assert sequencer.now == 3
    sequencer.leave(actor)


def test_a_point_waits_for_who_was_announced() -> None:
    """A thread that was announced is an option at the next point, however late it comes.

    The choice is made on the thread that stands at the point, as everywhere.
    """
    log: list[str] = []
    held = threading.Lock()
    chosen_on: list[int] = []

    class Noted(Wanted):
        def choose(self, number: int, step: Step) -> int:
            chosen_on.append(_thread.get_ident())
            return super().choose(number, step)

    def body(probe: Probe) -> None:
        sequencer = probe.clock.sequencer
        held.acquire()
        arrival = sequencer.expect("late")

        def late() -> None:
            with held:
                pass
            with sequencer.working(arrival):
                log.append("late")

        # As a library might start it: the sequencer knows it by its announcement alone.
        _thread.start_new_thread(late, ())
        enter = sequencer._stop_at_point

        def stop(actor: Any) -> None:
            enter(actor)
            if held.locked():
                held.release()

        sequencer._stop_at_point = stop  # type: ignore[method-assign]
        sequencer.point("line", "here")
        log.append("test")

    one_run(body, Noted("late#1"))

    assert log == ["late", "test"]
    assert chosen_on[0] == _thread.get_ident()


def test_threads_between_steps_of_a_loop() -> None:
    """Between two steps of a loop, threads may run if the loop has done what they may notice."""
    log: list[str] = []

    @background_task
    def step() -> None:
        log.append("task")

    async def main(probe: Probe) -> None:
        step()
        for name in "ab":
            await probe.clock.asleep(0)
            log.append(name)

    def body(probe: Probe) -> None:
        asyncio.run(main(probe))
        probe.run_until_idle()

    steps = one_run(body, Wanted("step#1"))

    assert [step.kind for step in steps if step.preempted] == ["await"]
    assert log == ["task", "a", "b"]


def test_a_task_that_is_faster_than_who_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task comes to the same points if it reaches them before the call that starts it returns."""

    @background_task
    def step() -> None:
        report()

    def body(probe: Probe) -> None:
        step()
        step()
        probe.run_until_idle()

    expected = one_run(body, Default())
    passed = _thread.allocate_lock()
    real_point, real_admit = Sequencer.point, Sequencer._admit

    def point(self: Sequencer, kind: str, what: str, **options: Any) -> None:
        real_point(self, kind, what, **options)
        if passed.locked():
            passed.release()

    def slow_admit(self: Sequencer, queued: Queued) -> None:
        start = queued.admit

        def start_slowly() -> None:
            passed.acquire(blocking=False)
            start()
            # It passes a point at once, or waits there until this call has returned.
            passed.acquire(timeout=0.2)  # steady: it may have to run out, either end is right

        queued.admit = start_slowly
        real_admit(self, queued)

    monkeypatch.setattr(Sequencer, "point", point)
    monkeypatch.setattr(Sequencer, "_admit", slow_admit)

    assert one_run(body, Default()) == expected


async def total_of(probe: Probe, log: list[str]) -> None:
    """Suspend twice, as a route of an app would; nothing of it is the test's own."""
    for name in "ab":
        log.append(name)
        await probe.clock.asleep(0)


def test_threads_between_steps_of_an_apps_code() -> None:
    """Where an app's coroutine suspends, a thread may run, though it has called nothing."""
    log: list[str] = []

    @background_task
    def step() -> None:
        log.append("task")

    async def main(probe: Probe) -> None:
        step()
        await probe.clock.asleep(0)
        await asyncio.gather(total_of(probe, log), probe.clock.asleep(0))

    def body(probe: Probe) -> None:
        asyncio.run(main(probe))
        probe.run_until_idle()

    found = set()
    for number in range(12):
        log.clear()
        one_run(body, Nth(number, "step#1"))
        found.add("".join(log))

    assert found == {"taskab", "ataskb", "abtask"}


def test_a_client_is_controlled() -> None:
    """Starlette's client, whose loop has a thread of its own, waits for nothing unseen."""
    app = FastAPI()

    @app.get("/")
    def root() -> dict[str, str]:
        return {}

    met: list[str] = []

    def body(probe: Probe) -> None:
        with probe.client(app) as client:
            assert client.get("/").json() == {}
        met.extend(probe.clock.sequencer.outside.met)

    first, second = (one_run(body, Nth(0, "test")) for _ in range(2))

    assert met == []
    assert first == second
    assert ("await", "", ("loop#1", "test"), True, 1) in first


class InterruptError(Exception):
    """Raised by the handler of a signal."""


def interrupt(*_: object) -> None:
    """Handle a signal."""
    raise InterruptError("by a signal")


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows has no such signals")
@pytest.mark.parametrize("where", ["parked", "blocked"])
def test_a_signal_ends_a_wait(where: str) -> None:
    """Where the handler of a signal raises in a waiting thread, that thread counts as running."""
    main = threading.get_ident()
    log: list[str] = []

    def body(probe: Probe) -> None:
        sequencer = probe.clock.sequencer
        interrupted = [False]

        @background_task
        def work() -> None:
            probe.clock.sleep(1)
            signal.pthread_kill(main, signal.SIGUSR1)
            while not interrupted[0]:
                pass
            probe.clock.sleep(1)
            log.append("worked")

        work()
        actor = sequencer.here
        assert actor is not None
        wait: Any = {
            "parked": lambda: sequencer.park(actor, None),
            "blocked": lambda: sequencer.block(actor, lambda: False, 5_000_000_000, "to be free"),
        }
        with pytest.raises(InterruptError, match=r"^by a signal$"):
            wait[where]()
        interrupted[0] = True
        log.append("interrupted")
        probe.run_until_idle()
        assert probe.clock.monotonic() == 2
        assert list(sequencer.outside.met) == ["a signal whose handler has raised an error"]

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        one_run(body, Default())
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert log == ["interrupted", "worked"]


def test_threads_of_the_test() -> None:
    """Threads that a test starts itself are named after their functions, and are options."""
    log: list[str] = []
    met: list[str] = []

    def work(probe: Probe, name: str) -> None:
        log.append(name)
        probe.clock.sequencer.point("line", "here")
        log.append(name.upper())

    def body(probe: Probe) -> None:
        threads = [threading.Thread(target=work, args=(probe, name)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        met.extend(probe.clock.sequencer.outside.met)

    # The test goes on after it has started each of them.
    one_run(body, Wanted("test", "test", "work#1", "work#2"))

    assert "".join(log) == "abBA"
    assert met == []


Work = Callable[[], object]


def in_a_thread(work: Work, look: Work) -> None:
    """Start a thread, and look."""
    thread = threading.Thread(target=work)
    thread.start()
    look()
    thread.join()


def in_a_pool(work: Work, look: Work) -> None:
    """Submit a call to a pool of one's own, and look."""
    with ThreadPoolExecutor() as pool:
        pool.submit(work)
        look()


def in_an_executor(work: Work, look: Work) -> None:
    """Submit a call to the pool of a loop, and look."""

    async def main() -> None:
        future = asyncio.get_running_loop().run_in_executor(None, work)
        look()
        await future

    asyncio.run(main())


def in_to_thread(work: Work, look: Work) -> None:
    """Start a coroutine that runs a call on a thread, and look."""

    async def main() -> None:
        task = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.sleep(0)  # noqa: TID251  # of no time
        look()
        await task

    asyncio.run(main())


def in_a_thread_under_a_lock(work: Work, look: Work) -> None:
    """Start a thread that needs a lock, and look while it is held."""
    lock = threading.Lock()

    def locked() -> None:
        with lock:
            work()

    thread = threading.Thread(target=locked)
    with lock:
        thread.start()
        look()
    thread.join()


@pytest.mark.parametrize(
    ("start", "level", "expected"),
    [
        *((start, "framework", {0, 1}) for start in (in_a_thread, in_a_pool, in_an_executor)),
        (in_to_thread, "framework", {0, 1}),
        (in_a_thread_under_a_lock, "framework", {0}),
        (in_a_thread, "awaits", {0}),
    ],
)
def test_a_thread_may_be_faster_than_who_starts_it(
    start: Callable[[Work, Work], None], level: Level, expected: set[int]
) -> None:
    """From level "framework" on a thread may run before its starter goes on, and may not."""
    seen = set[int]()

    def body(probe: Probe) -> None:
        log = list[int]()
        start(lambda: log.append(1), lambda: seen.add(len(log)))

    policy = make_policy("exhaustive", 0)
    while (strategy := policy.next()) is not None:
        policy.ended(one_run(body, strategy, level))

    assert seen == expected
