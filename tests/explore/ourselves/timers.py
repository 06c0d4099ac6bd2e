"""Scenarios of what happens at a time: timers, limits, delays, schedules, the clean-up."""

from __future__ import annotations

from collections.abc import Callable

from framework._manager.cleanup import CleanUp
from framework._manager.settings import Settings
from framework._records.due import Every
from framework._records.statuses import PENDING
from framework._running.waits.places import Delays
from framework._tasks import registry
from framework._tasks.live import Home, LiveTask
from framework._tasks.options import SCHEDULE
from framework._tasks.specs import Schedule, spec_for
from framework._threads.clock import Timer
from framework._threads.deadlines import Deadlines
from framework.exceptions import TaskCancelledError
from tests.explore.ourselves.run import Late, Run
from tests.explore.ourselves.tasks import cancel, outcome


def set_or_fire(run: Run) -> None:
    """Timers are set and cancelled while others fire: each does one of the two."""
    clock, fired = run.clock, list[str]()
    kept: list[Timer] = []

    def keep() -> None:
        kept.append(clock.call_at(1.0, lambda: fired.append("kept")))

    def drop() -> None:
        timer = clock.call_at(1.0, lambda: fired.append("dropped"))
        run.sleep(1.0)
        timer.cancel()

    def set_late() -> None:
        run.sleep(1.0)
        clock.call_at(1.0, lambda: fired.append("late"))

    run.together(keep, drop, set_late)
    run.sleep(1.0)
    assert sorted(fired) in (["dropped", "kept", "late"], ["kept", "late"]), fired
    assert clock._live == 0
    assert clock._thread is None


def set_or_close(run: Run) -> None:
    """Timers are set while the clock is closed and others fire; no thread is left."""
    clock, fired = run.clock, list[int]()
    clock.call_at(1.0, lambda: fired.append(1))

    def add() -> None:
        run.sleep(1.0)
        clock.call_at(1.5, lambda: fired.append(2))

    def close() -> None:
        run.sleep(1.0)
        clock.close()

    run.together(add, close)
    clock.close()
    assert len(fired) == len(set(fired))
    assert not clock._heap
    assert clock._live == 0


def cancel_many(run: Run) -> None:
    """Timers that are cancelled by several threads are each counted once."""
    clock = run.clock
    timers = [clock.call_at(5.0 + number, lambda: None) for number in range(3)]

    def drop() -> None:
        for timer in timers:
            timer.cancel()

    run.together(drop, drop)
    assert clock._live == 0
    run.sleep(0.1)
    assert clock._thread is None


def deadline_or_end(run: Run) -> None:
    """Entries are added and removed while the first one expires: each does one of the two."""
    expired: list[str] = []
    deadlines: Deadlines[str] = Deadlines(run.clock, expired.append)
    removed: list[str] = []
    deadlines.add("first", 1.0, 0.0)

    def remove(entry: str) -> None:
        run.sleep(1.0)
        deadlines.add(entry, 1.0, run.clock.monotonic())
        if deadlines.remove(entry, 1.0) is not None:
            removed.append(entry)

    def keep() -> None:
        run.sleep(1.0)
        deadlines.add("kept", 1.0, run.clock.monotonic())

    run.together(lambda: remove("a"), lambda: remove("b"), keep)
    run.sleep(2.0)
    assert sorted(expired) == ["first", "kept"], expired
    assert sorted(removed) == ["a", "b"]
    assert not deadlines._queues
    deadlines.close()


def deadline_or_close(run: Run) -> None:
    """The deadlines are closed while a timer fires and an entry is added."""
    expired: list[str] = []
    deadlines: Deadlines[str] = Deadlines(run.clock, expired.append)
    deadlines.add("first", 1.0, 0.0)
    deadlines.add("second", 1.0, 0.5)

    def close() -> None:
        run.sleep(1.0)
        deadlines.close()

    run.together(close)
    run.sleep(0.1)
    assert expired in ([], ["first"])
    assert not deadlines._queues
    assert run.clock._live == 0, "a timer is left"


def delay_or_cancel(run: Run) -> None:
    """A delayed task is cancelled as it falls due, or before its timer is set."""
    manager = run.manager(1)
    task_id = Late()

    def submit() -> None:
        task_id.set(manager.submit_nowait(int, delay=1.0, task_id="delayed"))

    def stop_early() -> None:
        cancel(manager, "delayed")

    def stop_late() -> None:
        task_id.get()
        run.sleep(1.0)
        cancel(manager, "delayed")

    run.together(submit, stop_early, stop_late)
    assert outcome(manager, "delayed") in (0, TaskCancelledError)
    assert run.clock._live == 0


def delay_held_up(run: Run) -> None:
    """A task falls due while it is being delayed: it has no timer any more."""
    launched: list[LiveTask] = []
    delays, task = Delays(run.clock), LiveTask()
    task.status, task.rest = PENDING, None
    run.together(
        lambda: delays.delay(task, run.clock.monotonic() + 1.0, launched.append), run.hurry
    )
    run.sleep(2.0)
    assert launched == [task]
    assert task.timer is None
    assert not len(delays)


def delay_or_shutdown(run: Run) -> None:
    """A delayed task falls due as the framework stops: it does not stay PENDING."""
    manager = run.manager(1)
    core, home = manager._core, manager._core.intake.home()
    task_id = manager.submit_nowait(int, delay=1.0)

    def stop() -> None:
        run.sleep(1.0)
        core.ledger.close_home(home)
        for task in core.ledger.unfinished(home):
            core.runner.cancel_pending(task, "the end")

    run.together(stop)
    assert outcome(manager, task_id) in (0, TaskCancelledError)


def every_second(fn: Callable[[], object], *, run_at_start: bool = False) -> Schedule:
    """Return a schedule of a function that is due each second."""
    options = SCHEDULE.complete({"run_at_start": run_at_start})
    return Schedule(spec_for(fn), Every(1.0), options)


def schedule_or_stop(run: Run) -> None:
    """Schedules are added and fire while all are stopped: none runs on."""
    manager, runs = run.manager(1), list[int]()
    schedules = manager._core.schedules
    kept = [every_second(lambda: runs.append(1), run_at_start=True) for _ in range(2)]
    schedules.start()
    schedules.add_own(kept[0], None)

    def add() -> None:
        run.sleep(1.0)
        schedules.add_own(kept[1], None)

    def stop() -> None:
        run.sleep(1.0)
        schedules.stop()

    run.together(add, stop)
    run.sleep(0.5)
    assert run.clock._live == 0, "a timer is left"
    before = len(runs)
    run.sleep(5)
    assert len(runs) == before


def schedule_or_leave(run: Run) -> None:
    """An app leaves while its schedule fires, and another one's is added."""
    manager = run.manager(1)
    schedules, home = manager._core.schedules, manager._core.intake.home()
    other = Home(manager._core, None, None)
    kept = [every_second(int) for _ in range(2)]
    schedules.start()
    schedules.add_own(kept[0], home)

    def leave() -> None:
        run.sleep(1.0)
        schedules.leave(home)

    def add() -> None:
        run.sleep(1.0)
        schedules.add_own(kept[1], other)

    run.together(leave, add)
    run.sleep(0.5)
    assert len(schedules) == 1
    assert run.clock._live == 1
    schedules.stop()


def start_schedules_twice(run: Run) -> None:
    """Two apps start the schedules at once: each runs once."""
    manager, runs = run.manager(1), list[int]()
    schedules = manager._core.schedules
    kept = every_second(lambda: runs.append(1))
    with schedules._lock:
        schedules._own[kept] = None
    run.together(schedules.start, schedules.start)
    run.sleep(1.5)
    assert run.clock._live == 1
    schedules.stop()
    run.sleep(1.0)
    assert len(runs) == 1


def declare_or_start(run: Run) -> None:
    """A schedule is declared while a framework starts: it is run by it, and once."""
    manager = run.manager(1)
    schedules = manager._core.schedules
    kept = every_second(int)
    try:
        run.together(lambda: registry.add_schedule(kept), schedules.start)
        assert len(schedules) == 1
        assert run.clock._live == 1
    finally:
        registry._SCHEDULES.pop(kept, None)
        schedules.stop()


def clean_up_or_stop(run: Run) -> None:
    """The clean-up is stopped as it runs, and started twice: no timer is left, and never two."""
    manager = run.manager(1)
    core = manager._core
    clean_up = CleanUp(core.ledger, core.endings.retention, Settings(cleanup_interval=1.0))

    def stop() -> None:
        run.sleep(1.0)
        clean_up.stop()

    run.together(clean_up.start, clean_up.start, stop)
    run.sleep(0.5)
    assert run.clock._live == 0, "a timer is left"


def start_clean_up_twice(run: Run) -> None:
    """Two apps start the clean-up at once: it has one timer."""
    manager = run.manager(1)
    core = manager._core
    clean_up = CleanUp(core.ledger, core.endings.retention, Settings(cleanup_interval=1.0))
    run.together(clean_up.start, clean_up.start)
    assert run.clock._live == 1
    clean_up.stop()


SCENARIOS: list[Callable[[Run], None]] = [
    set_or_fire,
    set_or_close,
    cancel_many,
    deadline_or_end,
    deadline_or_close,
    delay_or_cancel,
    delay_held_up,
    delay_or_shutdown,
    schedule_or_stop,
    schedule_or_leave,
    start_schedules_twice,
    declare_or_start,
    clean_up_or_stop,
    start_clean_up_twice,
]
