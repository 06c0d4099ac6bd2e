"""Schedules on a clock: times of day, what is missed, the wall clock that is set, a year."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from framework import (
    ScheduleInfo,
    TaskManager,
    TaskStatus,
    get_task_manager,
    retry_task,
    scheduled_task,
    setup_async_framework,
)
from framework._manager.scheduling.timetables import OwnBook
from framework.exceptions import ScheduleBusyError, ScheduleNotFoundError
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.probe import Probe

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86_400.0


@pytest.fixture
def no_schedules() -> None:
    """Let go of the schedules of earlier tests."""
    gc.collect()


@pytest.fixture
async def manager(no_schedules: None, asyncframe: Probe) -> AsyncIterator[TaskManager]:
    """Give the manager of a running framework on the test's clock."""
    async with setup_async_framework(None, max_workers=2, cleanup_interval=DAY):
        yield get_task_manager()


async def test_a_year_of_nights(
    no_schedules: None, task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """In a year, a nightly run comes once each night at 03:00, also where the clock is changed."""
    runs: list[datetime] = []

    @scheduled_task(cron="0 3 * * *", tz="Europe/Berlin")
    def nightly() -> None:
        runs.append(datetime.fromtimestamp(task_clock.time(), BERLIN))

    async with setup_async_framework(None, cleanup_interval=DAY):
        await task_clock.run_for(365 * DAY)
    assert len({run.date() for run in runs}) == len(runs) == 365
    assert {(run.hour, run.minute, run.second) for run in runs} == {(3, 0, 0)}
    assert len({run.utcoffset() for run in runs}) == 2
    assert callable(nightly)


async def test_a_year_of_nights_in_order(manager: TaskManager, asyncframe: Probe) -> None:
    """In a year of runs that the probe starts, a time that the clock skips comes once as well."""
    clock, runs = asyncframe.clock, list[datetime]()

    @scheduled_task(at="02:30", tz="Europe/Berlin")
    async def nightly() -> None:
        runs.append(datetime.fromtimestamp(clock.time(), BERLIN))

    await clock.run_for(365 * DAY)
    assert len({run.date() for run in runs}) == len(runs) == 365
    assert sorted({f"{run:%H:%M}" for run in runs}) == ["02:30", "03:00"]
    assert callable(nightly)


def ticking(asyncframe: Probe, **options: Any) -> tuple[list[float], Any]:
    """Return the seconds at which a scheduled function runs, and the function, to be kept."""
    runs: list[float] = []

    def tick() -> None:
        runs.append(asyncframe.clock.monotonic())

    return runs, scheduled_task(**options)(tick)


def sleep_of_the_machine(asyncframe: Probe, seconds: float) -> None:
    """Let time pass all at once, with nothing running."""
    asyncframe.clock.sequencer.now += int(seconds * 1e9)


async def next_minute(asyncframe: Probe) -> float:
    """Move a second past the next full minute of the wall clock; return the minute's second."""
    clock = asyncframe.clock
    await clock.run_for(61 - clock.time() % 60)
    return clock.monotonic() - 1


# -- what is missed


@pytest.mark.parametrize(
    ("missed", "late", "expected", "counted"),
    [
        # The last due time is half a minute late: that is in time.
        ("skip", 30, [630], 9),
        ("once", 30, [630], 9),
        ("all", 30, [630] * 10, 0),
        # With an hour between two due times, half an hour is not.
        ("skip", 1_800, [], 10),
        ("once", 1_800, [37_800], 9),
        ("all", 1_800, [37_800] * 10, 0),
    ],
)
async def test_the_machine_was_asleep(
    manager: TaskManager,
    asyncframe: Probe,
    missed: str,
    late: float,
    expected: list[float],
    counted: int,
) -> None:
    """Of ten due times that have passed, none, the last or each is run, as the policy says."""
    every = 60 if late < 60 else 3600
    runs, kept = ticking(asyncframe, every=every, missed=missed)
    sleep_of_the_machine(asyncframe, 10 * every + late)
    await asyncframe.clock.run_for(1)
    (info,) = own(manager, kept)
    assert (runs, info.missed) == (expected, counted)
    await asyncframe.clock.run_for(every)
    assert len(runs) == len(expected) + 1
    assert runs[-1] == 11 * every


async def test_all_is_bounded(manager: TaskManager, asyncframe: Probe) -> None:
    """Of a thousand due times that have passed, the latest hundred are made up for."""
    runs, kept = ticking(asyncframe, every=60, missed="all")
    sleep_of_the_machine(asyncframe, 60_000)
    await asyncframe.clock.run_for(1)
    assert len(runs) == 100
    assert callable(kept)


async def test_all_runs_come_one_after_the_other(manager: TaskManager, asyncframe: Probe) -> None:
    """With "all", a due time during a run is not skipped: its run comes right after it."""
    clock, spans = asyncframe.clock, list[tuple[float, float]]()

    @scheduled_task(every=10, missed="all")
    def slow() -> None:
        begun = clock.monotonic()
        clock.sleep(25 if begun < 20 else 2)
        spans.append((begun, clock.monotonic()))

    await clock.run_for(52)
    assert spans == [(10, 35), (35, 37), (37, 39), (40, 42), (50, 52)]
    assert "scheduled_skipped" not in manager.get_stats()
    assert callable(slow)


async def test_all_goes_on_after_a_failure(manager: TaskManager, asyncframe: Probe) -> None:
    """With "all", a run that fails is followed by the next one, and its own hook is called."""
    clock, runs, told = asyncframe.clock, list[float](), list[str]()

    @scheduled_task(every=10, missed="all", on_error=lambda task: told.append(str(task.error)))
    def failing() -> None:
        runs.append(clock.monotonic())
        if len(runs) == 1:
            clock.sleep(15)
            raise ConnectionError("away")

    asyncframe.expect_failure(failing, ConnectionError)
    await clock.run_for(35)
    assert (runs, told) == ([10, 25, 30], ["away"])


async def test_all_know_their_due_times(manager: TaskManager, asyncframe: Probe) -> None:
    """A function with a parameter for it gets the due time of its run, however late that is."""
    told: list[datetime] = []

    @scheduled_task(cron="0 3 * * *", tz="Europe/Berlin", missed="all", name="told")
    async def tell(due: datetime) -> None:
        told.append(due)

    sleep_of_the_machine(asyncframe, 4 * DAY)
    await asyncframe.clock.run_for(1)
    assert {f"{due:%H:%M}" for due in told} == {"03:00"}
    assert len({due.date() for due in told}) == len(told) >= 3
    assert sorted(told) == told
    now = datetime.fromtimestamp(asyncframe.clock.time(), BERLIN)
    await asyncframe.completed(await manager.schedules.trigger("told"))
    assert told[-1] - now < timedelta(seconds=1)
    await tell(due=now)
    assert told[-1] == now


async def test_a_time_of_day_that_was_missed(manager: TaskManager, asyncframe: Probe) -> None:
    """A nightly run that the machine slept through is made up for when it wakes."""
    runs, kept = ticking(asyncframe, at="03:00")
    (info,) = own(manager, kept)
    assert info.next_run is not None
    wait = info.next_run.timestamp() - asyncframe.clock.time()
    sleep_of_the_machine(asyncframe, wait + 3_600)
    await asyncframe.clock.run_for(DAY - 3_601)
    assert runs == pytest.approx([wait + 3_600])
    await asyncframe.clock.run_for(2)
    assert runs[1:] == pytest.approx([wait + DAY])


# -- the wall clock is set


@pytest.fixture
async def settable(
    no_schedules: None, asyncframe: Probe, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[float], None]]:
    """Run a framework on a clock whose wall time can be set; return what moves it."""
    clock = asyncframe.clock
    monkeypatch.setattr(clock, "may_be_set", True, raising=False)

    def move(seconds: float) -> None:
        clock._wall += seconds

    async with setup_async_framework(None, cleanup_interval=DAY):
        yield move


async def test_the_clock_is_put_forward(
    settable: Callable[[float], None], asyncframe: Probe
) -> None:
    """If the clock is put past a due time, its run comes within half a minute."""
    settable(1_800 - asyncframe.clock.time() % 3_600)
    runs, kept = ticking(asyncframe, cron="0 * * * *")
    await asyncframe.clock.run_for(1)
    settable(3_600)
    await asyncframe.clock.run_for(30)
    assert runs == [30]
    assert callable(kept)


async def test_the_clock_is_put_back(settable: Callable[[float], None], asyncframe: Probe) -> None:
    """If the clock is put back over a due time, that has run already and does not run again."""
    runs, kept = ticking(asyncframe, cron="* * * * *")
    start = await next_minute(asyncframe)
    await asyncframe.clock.run_for(120)
    assert runs == pytest.approx([start, start + 60, start + 120])
    settable(-120)
    await asyncframe.clock.run_for(170)
    assert len(runs) == 3
    await asyncframe.clock.run_for(20)
    assert runs[3:] == pytest.approx([start + 300])
    assert callable(kept)


async def test_the_clock_was_wrong(
    settable: Callable[[float], None], asyncframe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """After a clock that was a year ahead is set right, a schedule goes on within a minute."""
    settable(365 * DAY)
    runs, kept = ticking(asyncframe, cron="* * * * *")
    await next_minute(asyncframe)
    assert len(runs) == 1
    settable(-365 * DAY)
    await asyncframe.clock.run_for(95)
    assert len(runs) >= 2
    assert "the clock is wrong, or was; the schedule goes on from now" in caplog.text
    assert callable(kept)


async def test_an_interval_ignores_the_wall_clock(
    settable: Callable[[float], None], asyncframe: Probe
) -> None:
    """An interval of one process is counted by a clock that nobody sets."""
    runs, kept = ticking(asyncframe, every=60)
    for seconds in (3_600, -7_200, 3_600):
        settable(seconds)
        await asyncframe.clock.run_for(40)
    assert runs == [60, 120]
    assert callable(kept)


# -- times and options


async def test_a_single_run(manager: TaskManager, asyncframe: Probe) -> None:
    """A moment is run once, and a moment that has passed is not."""
    now = datetime.fromtimestamp(asyncframe.clock.time(), UTC)
    runs, kept = ticking(asyncframe, at=now + timedelta(seconds=90))
    past, also_kept = ticking(asyncframe, at=now - timedelta(seconds=90))
    await asyncframe.clock.run_for(DAY)
    assert runs == pytest.approx([90], abs=1e-3)
    assert past == []
    assert [info.next_run for info in own(manager, kept, also_kept)] == [None, None]


async def test_run_options(manager: TaskManager, asyncframe: Probe) -> None:
    """A schedule takes the options of tasks, and its function may be retried."""
    clock = asyncframe.clock

    @scheduled_task(every=timedelta(minutes=1), timeout=5, description="of the cache", name="fill")
    @retry_task(max_retries=2, retry_delay=1)
    async def fill() -> None:
        await clock.asleep(0.5)
        if clock.monotonic() < 62:
            raise ConnectionError

    @scheduled_task(every=60, timeout=5, name="hang", on_error="silent")
    async def hang() -> None:
        await clock.asleep(9)

    asyncframe.expect_failure("hang", TimeoutError)
    await clock.run_for(70)
    ended = {task.name: task for name in ("fill", "hang") for task in asyncframe.submitted(name)}
    assert (ended["fill"].status, ended["fill"].attempts) == (TaskStatus.COMPLETED, 2)
    assert ended["fill"].description == "of the cache"
    assert ended["hang"].status is TaskStatus.TIMEOUT
    assert ended["hang"].description == "every 60 s"
    assert callable(fill)
    assert callable(hang)


# -- seen, paused and run by hand


def own(manager: TaskManager, *kept: Any) -> list[ScheduleInfo]:
    """Return what is known of some scheduled functions, in their order."""
    tables = manager._core.schedules._timetables
    names = [tables[one.__asyncframe_schedule__].name for one in kept]
    infos = {info.name: info for info in manager.schedules.snapshot()}
    return [infos[name] for name in names]


async def test_what_is_known(manager: TaskManager, asyncframe: Probe) -> None:
    """A schedule is shown with its times, its last run and how that went."""
    clock = asyncframe.clock
    begun = clock.now()

    @scheduled_task(every=10, name="known")
    def known() -> None:
        raise ConnectionError

    asyncframe.expect_failure("known", ConnectionError)
    (info,) = own(manager, known)
    assert info == ScheduleInfo("known", "every 10 s", info.next_run, None, None, None, False, 0, 0)
    assert info.next_run == begun + timedelta(seconds=10)
    await clock.run_for(11)
    (info,) = own(manager, known)
    (task,) = asyncframe.submitted("known")
    assert (info.last_task_id, info.last_status) == (task.task_id, TaskStatus.FAILED)
    assert (info.last_run, info.next_run) == (task.created_at, begun + timedelta(seconds=20))
    assert info in await manager.schedules.get_all()


async def test_a_pause(manager: TaskManager, asyncframe: Probe) -> None:
    """A paused schedule does not run; what was due meanwhile is not made up for."""
    runs, kept = ticking(asyncframe, every=10, name="paused", missed="all")
    await asyncframe.clock.run_for(15)
    await manager.schedules.pause("paused")
    (info,) = own(manager, kept)
    assert (info.paused, info.next_run) == (True, None)
    await asyncframe.clock.run_for(30)
    await manager.schedules.resume("paused")
    await manager.schedules.resume("paused")
    await asyncframe.clock.run_for(20)
    assert runs == [10, 50, 60]
    assert own(manager, kept)[0].missed == 0


async def test_run_by_hand(manager: TaskManager, asyncframe: Probe) -> None:
    """A schedule is run by hand, though it is paused, and not while it is running."""
    clock = asyncframe.clock

    @scheduled_task(every=100, name="by hand")
    def report() -> str:
        clock.sleep(20)
        return "sent"

    await manager.schedules.pause("by hand")
    task_id = await manager.schedules.trigger("by hand")
    with pytest.raises(
        ScheduleBusyError,
        match=r"^schedule 'by hand' is running, and its runs do not overlap: wait for "
        r"the run, or cancel it$",
    ):
        await manager.schedules.trigger("by hand")
    assert (await asyncframe.completed(task_id)).result == "sent"
    assert own(manager, report)[0].last_task_id == task_id
    await manager.schedules.resume("by hand")
    await clock.run_for(70)
    await manager.schedules.trigger("by hand")
    await clock.run_for(30)
    assert own(manager, report)[0].skipped == 1


async def test_the_end_of_a_framework_comes_first(
    manager: TaskManager, asyncframe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule that ends while its run is claimed is not due again."""
    schedules, real_claim = manager._core.schedules, OwnBook.claim_run

    def claim(*args: Any, **options: Any) -> Any:
        schedules.stop()
        return real_claim(*args, **options)

    runs, kept = ticking(asyncframe, every=60)
    (table,) = schedules._timetables.values()
    monkeypatch.setattr(OwnBook, "claim_run", claim)
    await asyncframe.clock.run_for(600)
    assert (len(runs), table.timer) == (1, None)
    assert callable(kept)


async def test_no_such_schedule(manager: TaskManager) -> None:
    """A name that no schedule has is refused, with those that there are."""
    nothing = scheduled_task(every=10, name="one")(int)
    for act in (manager.schedules.pause, manager.schedules.resume, manager.schedules.trigger):
        with pytest.raises(
            ScheduleNotFoundError, match=r"^there is no schedule 'two'; this process has 'one'$"
        ):
            await act("two")
        with pytest.raises(TypeError, match=r"^name must be a string, not 2$"):
            await act(2)  # type: ignore[arg-type]  # the point
    assert callable(nothing)


async def test_equal_names(manager: TaskManager, asyncframe: Probe) -> None:
    """Of schedules with one name, the later ones have a number."""
    kept = [scheduled_task(every=10, name="same")(lambda: None) for _ in range(3)]
    assert [info.name for info in own(manager, *kept)] == ["same", "same#2", "same#3"]
    await asyncframe.clock.run_for(11)
    assert len(asyncframe.submitted("same")) == 3
