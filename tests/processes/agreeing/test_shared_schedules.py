"""Schedules of several frameworks that share a database, each on a clock of its own."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from framework import (
    ScheduleInfo,
    TaskManager,
    TaskStatus,
    get_task_manager,
    scheduled_task,
    setup_async_framework,
)
from framework._records.records import TaskEvent
from framework.exceptions import (
    ScheduleBusyError,
    ScheduleNotFoundError,
    StoreUnavailableError,
)
from framework.stores.sql import SQLStore
from framework.stores.sql._reading.observer import Observer
from framework.stores.sql._tables.schema import SCHEDULES, TASKS
from framework.testing import lasting_schedules
from pytest_asyncframe.clock import VirtualClock
from tests.patience import PATIENCE

START = 1_800_000_000.0
"""The wall second at which the clocks begin; a full hour."""

DAY = 86_400.0

BUSY = (
    r"^schedule 'shared' is running, and its runs do not overlap: wait for the run, or cancel it$"
)
UNKNOWN = r"^there is no schedule 'shared'; this process has no schedules$"


class App:
    """A framework that shares a database with others, on a clock that a test moves."""

    def __init__(self, manager: TaskManager, clock: VirtualClock) -> None:
        self.manager = manager
        self.clock = clock
        self.submitted: list[str] = []
        manager.subscribe(self._note, kinds=["submitted"])

    def _note(self, event: TaskEvent) -> None:
        self.submitted.append(event.task_id or "")

    async def answered(self) -> None:
        """Wait until the store has answered all that this framework has asked by now."""
        elsewhere = self.manager._core.others
        await elsewhere.call(lambda: None)

    async def move(self, seconds: float) -> None:
        """Let time pass here, and wait for what is due by then to be claimed, and to end."""
        self.clock.advance(seconds)
        await self.answered()
        await self.settled()

    async def settled(self) -> None:
        """Wait until the tasks of this framework have ended, and all processes can see it."""
        for task_id in list(dict.fromkeys(self.submitted)):
            with suppress(Exception):
                await self.manager.get_result(task_id)
            await self.stored(task_id)

    async def stored(self, task_id: str) -> None:
        """Wait until the state of a task is in the database."""
        ledger, told = self.manager._core.ledger, threading.Event()
        record = ledger.find(task_id)
        assert record is not None
        assert ledger.shared is not None
        ledger.shared.secure(record, lambda _: told.set())
        assert await asyncio.to_thread(told.wait, PATIENCE)

    async def info(self, name: str = "shared") -> ScheduleInfo:
        """Return what is known about a schedule."""
        return next(one for one in await self.manager.schedules.get_all() if one.name == name)


@asynccontextmanager
async def app(url: str, *, wall: float = START, **options: Any) -> AsyncIterator[App]:
    """Run a framework on a database."""
    clock = VirtualClock(wall=wall)
    async with setup_async_framework(None, store=SQLStore(url), clock=clock, **options):
        made = App(get_task_manager(), clock)
        await made.answered()
        # A run at the start came before the subscription.
        made.submitted += [
            str(info.last_task_id)
            for info in made.manager.schedules.snapshot()
            if info.last_task_id and made.manager._core.ledger.find(info.last_task_id)
        ]
        await made.settled()
        yield made


@pytest.fixture
def schedule() -> Iterator[Callable[..., list[float]]]:
    """Schedule a function in all frameworks; return the list of when it ran, by whose clock."""
    gc.collect()
    kept = []

    def declare(body: Callable[[], object] | None = None, **options: Any) -> list[float]:
        runs: list[float] = []

        def shared() -> None:
            runs.append(get_task_manager().clock.time() - START)
            if body is not None:
                body()

        with lasting_schedules():
            kept.append(scheduled_task(**({"name": "shared"} | options))(shared))
        return runs

    yield declare
    kept.clear()
    gc.collect()


@contextmanager
def changed(url: str) -> Iterator[sa.Connection]:
    """Change a database from outside."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


async def test_a_due_time_is_run_once(sql_url: str, schedule: Callable[..., list[float]]) -> None:
    """Of two processes one runs each due time, at the multiples of the interval."""
    runs = schedule(every=60)
    async with app(sql_url) as one, app(sql_url) as other:
        for first, second in ((one, other), (other, one), (one, other)):
            await first.move(60)
            await second.move(60)
        assert runs == [60, 120, 180]
        assert [len(one.submitted), len(other.submitted)] == [2, 1]
        assert await one.info() == await other.info()


async def test_clocks_that_differ(sqlite_url: str, schedule: Callable[..., list[float]]) -> None:
    """The process whose clock is ahead runs a due time; the others come too late for it."""
    runs = schedule(every=10)
    async with app(sqlite_url) as slow, app(sqlite_url, wall=START + 3) as fast:
        for _ in range(3):
            await fast.move(7)
            await slow.move(7)
            await fast.move(3)
            await slow.move(3)
        assert runs == [10, 20, 30]
        assert (len(slow.submitted), len(fast.submitted)) == (0, 3)


async def test_a_run_is_live_elsewhere(
    sqlite_url: str, schedule: Callable[..., list[float]]
) -> None:
    """While a run is live in one process, due times are skipped in all, and counted once."""
    let_go = threading.Event()
    runs = schedule(lambda: let_go.wait(PATIENCE), every=60)
    async with app(sqlite_url) as one, app(sqlite_url) as other:
        one.clock.advance(60)
        await one.answered()
        for its in (other, other, one):
            its.clock.advance(60)
            await its.answered()
        let_go.set()
        await one.settled()
        assert runs == [60]
        assert (await one.info()).skipped == 1
        skipped = [its.manager.get_stats().get("scheduled_skipped", 0) for its in (one, other)]
        assert skipped == [0, 1]
        await other.move(60)
        assert runs == [60, 180]


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("skip", []), ("once", [3 * DAY - 60]), ("all", [3 * DAY - 60] * 3)],
)
async def test_missed_while_nothing_ran(
    sqlite_url: str, schedule: Callable[..., list[float]], missed: str, expected: list[float]
) -> None:
    """Due times that passed between two runs of an app are made up for as the policy says."""
    at = datetime.fromtimestamp(START - 3_600, UTC).time()
    runs = schedule(at=at, missed=missed)
    async with app(sqlite_url):
        assert runs == []
    async with app(sqlite_url, wall=START + 3 * DAY - 60) as again:
        for _ in expected:
            await again.answered()
            await again.settled()
        assert runs == expected
        await again.move(DAY + 60 - 3_600)
        assert len(runs) == len(expected) + 1


async def test_what_others_ran_was_not_missed(
    sqlite_url: str, schedule: Callable[..., list[float]]
) -> None:
    """A process that stood still runs nothing that others have run meanwhile."""
    runs = schedule(every=60, missed="all")
    async with app(sqlite_url) as one, app(sqlite_url) as other:
        for _ in range(3):
            await one.move(60)
        other.clock.sequencer.now += 190 * 10**9
        await other.move(0.001)
        assert runs == [60, 120, 180]
        assert (await other.info()).missed == 0
        await other.move(60)
        assert runs == [60, 120, 180, pytest.approx(250.001)]


@pytest.mark.parametrize("options", [{}, {"missed": "all"}, {"run_at_start": True}], ids=str)
async def test_a_missed_run_waits_for_a_dead_one(
    sqlite_url: str, schedule: Callable[..., list[float]], options: dict[str, Any]
) -> None:
    """What was missed is made up for once the run that a kill has cut off is known to be over."""
    runs = schedule(every=60, **options)
    at_start = [0.0] * ("run_at_start" in options)
    async with app(sqlite_url) as one:
        await one.move(60)
    with changed(sqlite_url) as connection:
        # As nobody ends it who knows its function, it stays live until the test ends it.
        cut_off = {"status": "running", "ended_at": None, "name": "cut off", "restart": "{}"}
        last = TASKS.c.task_id == sa.select(SCHEDULES.c.task_id).scalar_subquery()
        connection.execute(sa.update(TASKS).where(last).values(**cut_off, call="[[], {}]"))
    async with app(sqlite_url, wall=START + 145) as again:
        await again.move(5)
        assert runs == [*at_start, 60]
        with changed(sqlite_url) as connection:
            ended = {"status": "interrupted", "ended_at": START + 150}
            connection.execute(sa.update(TASKS).where(last).values(**ended))
        await again.move(5)
        assert runs == [*at_start, 60, 155]
        assert (await again.info()).skipped == 0
        await again.move(25)
        assert runs == [*at_start, 60, 155, 180]


async def test_a_new_schedule_has_missed_nothing(
    sqlite_url: str, schedule: Callable[..., list[float]]
) -> None:
    """A schedule that the database does not know waits for its next due time."""
    runs = schedule(every=60, missed="all")
    async with app(sqlite_url, wall=START + 30) as one:
        assert runs == []
        await one.move(30)
        assert runs == [60]


async def test_a_changed_schedule_has_missed_nothing(
    sqlite_url: str, schedule: Callable[..., list[float]]
) -> None:
    """A schedule that is due at other times since a deploy makes up for none of these before it."""
    with lasting_schedules():
        before: Any = scheduled_task(every=60, name="shared", missed="all")(lambda: None)
    async with app(sqlite_url) as one:
        await one.move(60)
    del before
    gc.collect()
    runs = schedule(every=10, missed="all")
    async with app(sqlite_url, wall=START + 215) as one:
        assert (await one.info()).timing == "every 10 s"
        assert runs == []
        await one.move(5)
        assert runs == [220]


async def test_at_the_start(sqlite_url: str, schedule: Callable[..., list[float]]) -> None:
    """A new schedule is run at the start by one process, and later only if it has missed a run."""
    runs = schedule(every=60, run_at_start=True, missed="skip")
    async with app(sqlite_url) as one, app(sqlite_url) as other:
        assert runs == [0]
        await one.move(30)
        await other.move(30)
    async with app(sqlite_url, wall=START + 40):
        assert runs == [0]
    async with app(sqlite_url, wall=START + 500):
        assert runs == [0, 500]


async def test_a_pause_is_for_all_and_is_kept(
    sqlite_url: str, schedule: Callable[..., list[float]]
) -> None:
    """A schedule that one process pauses runs in none, over a restart, until one resumes it."""
    runs = schedule(every=60)
    async with app(sqlite_url) as one, app(sqlite_url) as other:
        await other.manager.schedules.pause("shared")
        await one.move(60)
        info = await one.info()
        assert (info.paused, info.next_run) == (True, None)
    async with app(sqlite_url, wall=START + 600) as one, app(sqlite_url, wall=START + 600) as other:
        assert (await one.info()).paused
        await one.move(60)
        assert runs == []
        await other.move(70)
        await other.manager.schedules.resume("shared")
        await one.move(60)
        assert runs == [720]
        assert not other.manager.schedules.snapshot()[0].paused


async def test_triggered(sqlite_url: str, schedule: Callable[..., list[float]]) -> None:
    """A run by hand in one process is live for the others, and changes no due time."""
    let_go = threading.Event()
    runs = schedule(lambda: let_go.wait(PATIENCE), every=60)
    async with app(sqlite_url) as one, app(sqlite_url) as other:
        await one.move(10)
        task_id = await one.manager.schedules.trigger("shared")
        with pytest.raises(ScheduleBusyError, match=BUSY):
            await other.manager.schedules.trigger("shared")
        info = await other.info()
        assert (info.last_task_id, info.last_status) in (
            (task_id, TaskStatus.PENDING),
            (task_id, TaskStatus.RUNNING),
        )
        assert info.next_run == datetime.fromtimestamp(START + 60, UTC)
        let_go.set()
        await one.settled()
        await other.move(60)
        assert runs == [10, 60]


@pytest.mark.extended("time")
async def test_triggered_from_outside(sqlite_url: str) -> None:
    """A run that is triggered from outside gets that moment as its due time, for good."""
    seen: list[object] = []

    def note(due: datetime) -> None:
        with changed(sqlite_url) as connection:
            seen.extend([due, connection.execute(sa.select(TASKS.c.call)).scalar_one()])

    with lasting_schedules():
        # No other test's name: one of those may not be collected yet.
        kept = scheduled_task(every=DAY, name="from outside", on_restart="requeue")(note)
    async with app(sqlite_url) as one:
        with closing(Observer(sqlite_url)) as observer:
            task_id = observer.trigger("from outside", START + 7)
        await one.manager.get_result(task_id, timeout=PATIENCE)
    moment = datetime.fromtimestamp(START + 7, UTC)
    assert seen == [moment, f'[[],{{"due":"{moment:%Y-%m-%dT%H:%M:%SZ}"}}]']
    assert callable(kept)


async def test_schedules_of_others(sqlite_url: str, schedule: Callable[..., list[float]]) -> None:
    """A schedule that only other processes have is shown, and can be paused but not run."""
    async with app(sqlite_url):
        schedule(every=60)
    gc.collect()
    async with app(sqlite_url) as one:
        with suppress(KeyError):
            one.manager._core.schedules._timetables.clear()
        info = await one.info()
        assert (info.timing, info.next_run) == ("every 60 s", None)
        await one.manager.schedules.pause("shared")
        assert (await one.info()).paused
        with pytest.raises(ScheduleNotFoundError, match=UNKNOWN):
            await one.manager.schedules.trigger("shared")


async def test_each_process(sqlite_url: str, schedule: Callable[..., list[float]]) -> None:
    """With each_process, every process has runs of its own, counted from its start."""
    runs = schedule(every=60, each_process=True)
    async with app(sqlite_url, wall=START + 7) as one, app(sqlite_url, wall=START + 8) as other:
        await one.move(60)
        await other.move(60)
        assert runs == [67, 68]
        await one.manager.schedules.pause("shared")
        await one.move(60)
        await other.move(60)
        assert runs == [67, 68, 128]


async def test_the_database_is_away(
    tmp_path: Path, schedule: Callable[..., list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    """While the database is away nothing runs; once it is back, what was due runs once."""
    runs, file, away = schedule(every=60), tmp_path / "tasks.db", tmp_path / "away.db"
    async with app(f"sqlite:///{file}") as one:
        file.rename(away)
        one.clock.advance(60)
        for _ in range(3):
            await one.answered()
            one.clock.advance(1)
        assert runs == []
        assert caplog.text.count("scheduled shared waits for the store: ") == 1
        away.rename(file)
        await one.move(1)
        await one.move(1)
        assert len(runs) == 1
        await one.move(60)
        assert len(runs) == 2


async def test_a_claim_that_nobody_heard_of(
    sqlite_url: str, schedule: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim whose answer is lost is repeated, and its task runs, once."""
    runs = schedule(every=60)
    lost = lose_an_answer(monkeypatch)
    async with app(sqlite_url) as one, app(sqlite_url) as other:
        await one.move(60)
        await other.move(62)
        assert (lost, runs) == (["claimed"], [])
        await one.move(2)
        assert runs == [62]
        assert (await one.info()).last_status is TaskStatus.COMPLETED


async def test_a_run_by_hand_that_nobody_heard_of(
    sqlite_url: str, schedule: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run by hand whose claim has no answer is an error, and in nobody's way."""
    runs = schedule(every=60)
    async with app(sqlite_url) as one:
        lost = lose_an_answer(monkeypatch)
        with pytest.raises(StoreUnavailableError, match=r"^the line is cut$"):
            await one.manager.schedules.trigger("shared")
        info = await one.info()
        await one.stored(str(info.last_task_id))
        await one.move(60)
        assert (lost, runs) == (["claimed"], [60])


def lose_an_answer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the first answer to a claim get lost; return it, once it is."""
    real, lost = SQLStore.claim_run, list[str]()

    def claim_run(self: SQLStore, *args: Any, **options: Any) -> str:
        answer = real(self, *args, **options)
        if not lost:
            lost.append(answer)
            raise StoreUnavailableError("the line is cut")
        return answer

    monkeypatch.setattr(SQLStore, "claim_run", claim_run)
    return lost


async def test_a_run_that_is_refused(
    sqlite_url: str, schedule: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was claimed and then refused is a FAILED task, and in nobody's way."""
    runs = schedule(every=60)
    async with app(sqlite_url) as one, app(sqlite_url) as other:
        intake = one.manager._core.intake
        with monkeypatch.context() as patch:
            patch.setattr(intake, "accept", refuse)
            await one.move(60)
        info = await one.info()
        await one.stored(str(info.last_task_id))
        assert info.last_status is TaskStatus.FAILED
        assert one.manager.get_stats()["scheduled_skipped"] == 1
        await other.move(120)
        assert runs == [120]


async def test_a_run_that_is_due_at_the_stop(
    sqlite_url: str,
    schedule: Callable[..., list[float]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run that was claimed just when the framework stopped is another process's to run."""
    runs = schedule(every=60, on_restart="requeue")
    async with app(sqlite_url) as one:
        real = SQLStore.claim_run

        def claim_run(self: SQLStore, *args: Any, **options: Any) -> str:
            answer = real(self, *args, **options)
            one.manager._core.ledger.wind_down()
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(SQLStore, "claim_run", claim_run)
            one.clock.advance(60)
            await one.answered()
        assert runs == []
    async with app(sqlite_url, wall=START + 61) as other:
        left = (await other.info()).last_task_id
        assert left is not None
        await other.manager.wait(left, timeout=PATIENCE)
        assert runs == [61]
    assert [one.levelname for one in caplog.records if "shared" in one.getMessage()] == []


def refuse(task: object) -> None:
    """Refuse a task."""
    raise ValueError("no such engine")


async def test_no_room(sqlite_url: str, schedule: Callable[..., list[float]]) -> None:
    """A process whose queue is full leaves a run to another one."""
    runs = schedule(every=60)
    async with app(sqlite_url, queue_size=1) as full, app(sqlite_url) as other:
        await full.manager.submit(int, delay=900)
        full.clock.advance(60)
        await full.answered()
        assert full.manager.get_stats()["scheduled_skipped"] == 1
        await other.move(60)
        assert runs == [60]
