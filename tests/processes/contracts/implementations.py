"""Processes that share schedules, places and windows, on each back end, driven step by step.

A `BackEnd` starts processes, and its clock moves only when the test says so. No thread of the
product runs: what a process asks is answered before the call returns, and `BackEnd.settle` lets
all processes hear of what the others have done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Final, NamedTuple

import sqlalchemy as sa

from framework._manager.scheduling.timetables import OwnBook
from framework._records.records import TaskRecord
from framework._records.schedules import RunClaim, ScheduleState
from framework._records.statuses import TaskStatus
from framework._running.waits.lines import Lines
from framework._running.waits.throttle import Gate
from framework.engines.celery._messages import Message
from framework.engines.celery._redis import scripts
from framework.engines.celery._redis.reports import Reports
from framework.engines.celery._redis.state import State
from framework.engines.celery._redis.windows import Windows
from framework.engines.celery._shared.lines import RedisLines
from framework.engines.celery._shared.schedules import RedisSchedules
from framework.protocols import PlaceAnswer, PlaceRequest, WindowAnswer, WindowRequest
from framework.stores.sql._shared.membership import MISSED
from framework.stores.sql._tables.schema import TASKS
from tests.patience import PATIENCE
from tests.processes.sql.siblings import START, Peer, TestClock, new_record

LONG: Final = 86_400.0
"""Seconds of real time for which a process of a test counts as alive, without a sign of life."""

Told = Callable[[PlaceAnswer], object]


class Turn(NamedTuple):
    """What a throttle tells a call.

    Attributes:
        begins: The second at which it may begin; None if it is not counted.
        again: When to ask again; None for after the next change, if it is not counted.
    """

    begins: float | None
    again: float | None = None


class Process(ABC):
    """One of the processes that share a back end."""

    # -- schedules

    @abstractmethod
    def offer(self) -> TaskRecord:
        """Return the record of a task that a schedule could run now."""

    @abstractmethod
    def enter(self, name: str, timing: str, now: float) -> ScheduleState:
        """See `ScheduleBook.enter_schedule`."""

    @abstractmethod
    def claim(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """See `ScheduleBook.claim_run`."""

    @abstractmethod
    def pause(self, name: str, paused: bool, now: float) -> bool:
        """See `ScheduleBook.pause_schedule`."""

    @abstractmethod
    def schedules(self) -> Sequence[ScheduleState]:
        """See `ScheduleBook.schedules`."""

    @abstractmethod
    def knows(self, record: TaskRecord) -> bool:
        """Return whether the back end has a live task of this record."""

    @abstractmethod
    def end(self, record: TaskRecord, *, runs_on: bool = False) -> None:
        """Let a claimed run end; with *runs_on* its body goes on."""

    @abstractmethod
    def forget(self, record: TaskRecord) -> None:
        """Remove a run that has ended."""

    # -- places

    @abstractmethod
    def post(self, asked: Sequence[tuple[PlaceRequest, Told] | str]) -> None:
        """Ask for places, and leave all lines, in this order; see `SharedPlaces`."""

    @abstractmethod
    def hand_over(self, task_id: str) -> None:
        """Let a task that has all its places go on elsewhere, as on a worker."""

    @abstractmethod
    def finish(self, task_id: str) -> None:
        """Let a task that goes on elsewhere end, and leave."""

    @abstractmethod
    def is_over(self, task_id: str, *, runs_on: bool = False) -> None:
        """Let a task that has its places end; its `leave` is still on the way."""

    # -- windows

    @abstractmethod
    def call(self, request: WindowRequest) -> Turn:
        """Ask whether a call may begin; one that waits asks again, with the same entry."""

    @abstractmethod
    def give_up(self, request: WindowRequest) -> None:
        """Take back a call that waits, or that is counted in the future."""


class BackEnd(ABC):
    """What some processes share, with a clock that the test sets.

    Attributes:
        now: The wall second.
        processes: Those that live.
    """

    loses_processes: ClassVar[bool] = True
    """Whether a process can die and others go on."""
    runs_survive: ClassVar[bool] = False
    """Whether the run that a process has claimed goes on when that process dies."""
    has_bodies: ClassVar[bool] = True
    """Whether the body of a task may go on when the task has ended."""

    reserves: ClassVar[bool] = False
    """Whether a call that waits has its time at once, and keeps it if another one gives up."""

    def __init__(self) -> None:
        self.now = START
        self.processes: list[Any] = []  # Any: of the back end's own kind

    @abstractmethod
    def start(self) -> Process:
        """Start a process."""

    def kill(self, process: Process) -> None:
        """Let a process die, and all others find it out."""
        raise NotImplementedError

    @abstractmethod
    def settle(self) -> None:
        """Let all processes hear of the places that they were granted meanwhile."""

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def clear(self) -> None:
        """Remove what has ended, so that a process that starts has less to read."""
        return

    @abstractmethod
    def close(self) -> None:
        """Let go of the back end."""


# -- memory


class Memory(BackEnd):
    """One process: the reference. All "processes" are threads of it."""

    loses_processes = False

    def __init__(self) -> None:
        super().__init__()
        self.books: dict[str, OwnBook] = {}
        self.over: set[str] = set()
        self.lines = Lines(self.over.__contains__)
        self.gates: dict[str, Gate] = {}
        self.sleepers: dict[str, Sleeper] = {}

    def start(self) -> MemoryProcess:
        """Start one more."""
        made = MemoryProcess(self)
        self.processes.append(made)
        return made

    def settle(self) -> None:
        """Do nothing: everybody is told at once."""

    def close(self) -> None:
        """Do nothing."""


class Sleeper:
    """A call that waits in a gate; it is asked again after each change."""

    interrupted = False

    def wait(self, until: float | None) -> None:
        """Do nothing."""

    def signal(self) -> None:
        """Do nothing."""

    def interrupt(self) -> None:
        """Do nothing."""


class MemoryProcess(Process):
    """A thread."""

    def __init__(self, world: Memory) -> None:
        self._world = world
        self._clock = TestClock()

    def offer(self) -> TaskRecord:
        """Return the record of a task that a schedule could run now."""
        self._clock.wall = self._world.now
        return new_record(self._clock)

    def enter(self, name: str, timing: str, now: float) -> ScheduleState:
        """See `ScheduleBook.enter_schedule`."""
        return self._book(name).enter_schedule(name, timing, now)

    def claim(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """See `ScheduleBook.claim_run`."""
        return self._book(name).claim_run(name, due, record, skip=skip)

    def pause(self, name: str, paused: bool, now: float) -> bool:
        """See `ScheduleBook.pause_schedule`."""
        return self._book(name).pause_schedule(name, paused, now)

    def schedules(self) -> Sequence[ScheduleState]:
        """See `ScheduleBook.schedules`."""
        states = [state for book in self._world.books.values() for state in book.schedules()]
        return sorted((state for state in states if state.name), key=lambda one: one.name)

    def _book(self, name: str) -> OwnBook:
        return self._world.books.setdefault(name, OwnBook())

    def knows(self, record: TaskRecord) -> bool:
        """Return whether a book has it as its last run; only the framework keeps tasks."""
        runs = {book.schedules()[0].task_id for book in self._world.books.values()}
        return record.task_id in runs and not record.status.is_final

    def end(self, record: TaskRecord, *, runs_on: bool = False) -> None:
        """Let a run end."""
        record.status, record.still_running = TaskStatus.COMPLETED, runs_on

    def forget(self, record: TaskRecord) -> None:
        """Do nothing: the record of the last run is the book's own."""

    def post(self, asked: Sequence[tuple[PlaceRequest, Told] | str]) -> None:
        """Ask for places and leave lines."""
        for one in asked:
            if isinstance(one, str):
                self._world.lines.leave(one)
            else:
                self._world.lines.join(*one)

    def hand_over(self, task_id: str) -> None:
        """Do nothing: nobody else has a part in it."""

    def finish(self, task_id: str) -> None:
        """Let a task end and leave."""
        self._world.lines.leave(task_id)

    def is_over(self, task_id: str, *, runs_on: bool = False) -> None:
        """Let a task end, with its `leave` on the way."""
        if not runs_on:
            self._world.over.add(task_id)

    def call(self, request: WindowRequest) -> Turn:
        """Ask the gate of the key."""
        world = self._world
        gate = world.gates.setdefault(request.key, Gate(request.rate, request.length))
        sleeper = world.sleepers.get(request.entry)
        if sleeper is not None:
            begins, again = gate.step(sleeper, self._time)
            if begins:
                del world.sleepers[request.entry]
            return Turn(world.now if begins else None, again)
        again = gate.take(self._time)
        if again is None:
            return Turn(world.now)
        if request.waits:
            made = world.sleepers[request.entry] = Sleeper()
            again = gate.join(made, self._time)
        return Turn(None, again)

    def give_up(self, request: WindowRequest) -> None:
        """Leave the queue."""
        sleeper = self._world.sleepers.pop(request.entry, None)
        if sleeper is not None:
            self._world.gates[request.key].leave(sleeper)

    def _time(self) -> float:
        return self._world.now


# -- databases


class Sql(BackEnd):
    """A database of SQLAlchemy.

    Args:
        url: The database.
    """

    reserves = True

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def start(self) -> SqlProcess:
        """Start a process."""
        made = SqlProcess(Peer(self._url), self)
        made.peer.clock.pass_time(self.now - START)
        self.processes.append(made)
        return made

    def kill(self, process: Process) -> None:
        """Let a process die, and the others beat until they know it."""
        assert isinstance(process, SqlProcess)
        self.processes.remove(process)
        process.peer.close()
        for _ in range(MISSED + 1):
            for one in self.processes:
                one.peer.tick()
        self.settle()

    def settle(self) -> None:
        """Let all processes read the database."""
        for one in self.processes:
            one.peer.writer.follower.look()
            one.peer.writer.lines.look(one.peer.writer.follower.version)

    def clear(self) -> None:
        """Remove the tasks that have ended."""
        if self.processes:
            with self.processes[0].peer.database.writing() as connection:
                connection.execute(sa.delete(TASKS).where(TASKS.c.ended_at.is_not(None)))

    def pass_time(self, seconds: float) -> None:
        """Let time pass for all processes."""
        super().pass_time(seconds)
        for one in self.processes:
            one.peer.clock.pass_time(seconds)

    def close(self) -> None:
        """Close all connections."""
        for one in self.processes:
            one.peer.close()


class SqlProcess(Process):
    """A process that shares a database.

    Args:
        peer: Its store.
        world: The others.
    """

    def __init__(self, peer: Peer, world: Sql) -> None:
        self.peer = peer
        self._world = world
        self._book = peer.writer.schedules
        # Of the tasks in lines, and of claimed runs.
        self._records: dict[str, TaskRecord] = {}
        # The server's clock cannot be set.
        peer.writer.windows._now = lambda _: round(peer.clock.wall * 1_000_000)  # type: ignore[method-assign,assignment]  # that is the point

    def offer(self) -> TaskRecord:
        """Return the record of a task that a schedule could run now."""
        return new_record(self.peer.clock)

    def enter(self, name: str, timing: str, now: float) -> ScheduleState:
        """See `ScheduleBook.enter_schedule`."""
        return self._book.enter(name, timing, now)

    def claim(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """See `ScheduleBook.claim_run`."""
        return self._book.claim(name, due, record, skip)

    def pause(self, name: str, paused: bool, now: float) -> bool:
        """See `ScheduleBook.pause_schedule`."""
        return self._book.pause(name, paused, now)

    def schedules(self) -> Sequence[ScheduleState]:
        """See `ScheduleBook.schedules`."""
        return self._book.all()

    def knows(self, record: TaskRecord) -> bool:
        """Return whether the database has it as a live task."""
        row = self.peer.row(record)
        return row is not None and row.ended_at is None

    def end(self, record: TaskRecord, *, runs_on: bool = False) -> None:
        """Let a run end, as the process that claimed it."""
        record.still_running = runs_on
        if record.ended is None:
            self.peer.backlog.note(record)  # what the framework does once it has the claim
            self.peer.end(record)
        else:
            self.peer.backlog.put(record)
        self.peer.writer.batches.write()

    def forget(self, record: TaskRecord) -> None:
        """Remove all that has ended."""
        self.peer.writer.remove(self.peer.clock.wall + LONG)
        self.peer.writer.batches.write()
        assert self.peer.row(record) is None

    def post(self, asked: Sequence[tuple[PlaceRequest, Told] | str]) -> None:
        """Ask for places and leave lines, in one transaction."""
        lines = self.peer.writer.lines
        for one in asked:
            if isinstance(one, str):
                lines.leave(one)
            else:
                self._note(one[0].task_id)
                lines.join(*one)
        assert self.peer.writer.attempt(following=False)

    def _note(self, task_id: str) -> None:
        if task_id not in self._records:
            self._records[task_id] = self.peer.accept(task_id)

    def hand_over(self, task_id: str) -> None:
        """Let a task run on a worker."""
        record = self._records[task_id]
        record.remote = True
        self.peer.start(record)
        self.peer.writer.batches.write()
        # A store writes it with the first row of a task, when the engine is known already.
        remote = sa.update(TASKS).where(TASKS.c.task_id == task_id).values(remote=1)
        with self.peer.database.writing() as connection:
            connection.execute(remote)

    def finish(self, task_id: str) -> None:
        """Let a task leave that ran on a worker."""
        self.post([task_id])

    def is_over(self, task_id: str, *, runs_on: bool = False) -> None:
        """Write the end of a task, with its `leave` on the way."""
        record = self._records[task_id]
        record.still_running = runs_on
        self.peer.end(record)
        self.peer.writer.batches.write()

    def call(self, request: WindowRequest) -> Turn:
        """Count a call, at once or in the future."""
        told: list[WindowAnswer] = []
        self.peer.writer.windows.reserve(request, told.append)
        assert self.peer.writer.attempt(following=False)
        (answer,) = told
        moment = self._world.now + answer.wait
        return Turn(moment) if answer.counted else Turn(None, moment)

    def give_up(self, request: WindowRequest) -> None:
        """Give a call back."""
        self.peer.writer.windows.give_back(request.key, request.entry)
        assert self.peer.writer.attempt(following=False)


# -- Redis

HOLDER: Final = "m|1|7"
"""A process of a worker."""

_SET_CLOCK: Final = "redis.call('HMGET', 'test:clock', 'seconds', 'micros')"


class Redis(BackEnd):
    """The Redis of a Celery engine.

    Args:
        url: An empty Redis.
    """

    runs_survive = True
    has_bodies = False

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._started = 0
        self._client = State(url, "test", 60.0).client
        self.pass_time(0.0)

    def start(self) -> RedisProcess:
        """Start a process."""
        self._started += 1
        made = RedisProcess(self._url, str(self._started), self)
        self.processes.append(made)
        return made

    def kill(self, process: Process) -> None:
        """Let the sign of life of a process expire, and the others look around."""
        assert isinstance(process, RedisProcess)
        self.processes.remove(process)
        process.state.client.delete(process.places._alive)
        process.close()
        for one in self.processes:
            one.places._show_life()
        self.settle()

    def settle(self) -> None:
        """Let all processes read the reports."""
        for one in self.processes:
            one.hear()

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the scripts that count calls."""
        super().pass_time(seconds)
        micros = round(self.now * 1_000_000)
        clock = {"seconds": micros // 1_000_000, "micros": micros % 1_000_000}
        self._client.hset("test:clock", mapping=clock)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        for one in self.processes:
            one.close()


class StillLines(RedisLines):
    """Lines without their thread."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._calls: deque[Callable[[], object]] = deque()

    def _put(self, call: Callable[[], object]) -> None:
        self._calls.append(call)

    def make_calls(self) -> None:
        """Make the calls that wait, as the thread does."""
        while self._calls:
            self._calls.popleft()()


class NoTasks:
    """A framework that none of the reports is about."""

    def live(self) -> list[Any]:
        """Return no task."""
        return []

    def live_count(self) -> int:
        """Return 0."""
        return 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class RedisProcess(Process):
    """A process that shares a Redis.

    Args:
        url: The Redis.
        name: Its name there.
        world: The others.
    """

    def __init__(self, url: str, name: str, world: Redis) -> None:
        self._world = world
        self._clock = TestClock()
        self.state = State(url, "test", 60.0)
        register = self.state.client.register_script
        self._windows = Windows(self.state)
        self._windows._throttle = register(
            scripts.THROTTLE.replace("redis.call('TIME')", _SET_CLOCK)
        )
        engine: Any = SimpleNamespace(
            state=self.state,
            admit=bool,
            admission=SimpleNamespace(message=lambda record: _message(record.task_id)),
            fetch=list,
        )
        self._book = RedisSchedules(engine)
        self.places = StillLines(self.state, bool)
        self.places.holder = name
        self.places._alive = f"{self.state.prefix}alive:{name}"
        host: Any = NoTasks()
        self._reports = Reports(self.state, host, self.places.placed, self.places.missed)
        self._reports.find_place()

    def hear(self) -> None:
        """Read all reports."""
        # The last one, so that reading waits for nothing.
        self.state.poke()
        self._reports._take(self.state.read(self._reports._after, PATIENCE))

    def close(self) -> None:
        """Close all connections."""
        self.state.client.close()
        self._clock.close()

    def offer(self) -> TaskRecord:
        """Return the record of a task that a schedule could run now."""
        self._clock.wall = self._world.now
        return new_record(self._clock)

    def enter(self, name: str, timing: str, now: float) -> ScheduleState:
        """See `ScheduleBook.enter_schedule`."""
        return self._book.enter_schedule(name, timing, now)

    def claim(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """See `ScheduleBook.claim_run`."""
        return self._book.claim_run(name, due, record, skip=skip)

    def pause(self, name: str, paused: bool, now: float) -> bool:
        """See `ScheduleBook.pause_schedule`."""
        return self._book.pause_schedule(name, paused, now)

    def schedules(self) -> Sequence[ScheduleState]:
        """See `ScheduleBook.schedules`."""
        return self._book.schedules()

    def knows(self, record: TaskRecord) -> bool:
        """Return whether Redis has it as a live task, with its message."""
        facts = self.state.fetch([record.task_id]).get(record.task_id, {})
        has_message = self.state.client.hexists(self.state.messages, record.task_id)
        return facts.get("status") == "pending" and has_message

    def end(self, record: TaskRecord, *, runs_on: bool = False) -> None:
        """Let a worker run it to its end."""
        assert not runs_on
        self._run(record.task_id)

    def _run(self, task_id: str) -> None:
        assert self.state.start(_message(task_id), HOLDER).kind == "run"
        assert self.state.end(task_id, "completed", holder=HOLDER)

    def forget(self, record: TaskRecord) -> None:
        """Remove it."""
        self.state.forget([record.task_id])
        assert self.state.fetch([record.task_id]) == {}

    def post(self, asked: Sequence[tuple[PlaceRequest, Told] | str]) -> None:
        """Ask for places and leave lines."""
        for one in asked:
            if isinstance(one, str):
                self.places.leave(one)
            else:
                self.places.join(*one)
        self.places.make_calls()

    def hand_over(self, task_id: str) -> None:
        """Publish a task."""
        assert self.state.publish([_message(task_id)], self.places.holder, self.places) == {}

    def finish(self, task_id: str) -> None:
        """Let a worker run it to its end."""
        self._run(task_id)
        self.post([task_id])

    def is_over(self, task_id: str, *, runs_on: bool = False) -> None:
        """Let a worker run it to its end, of which its process has not heard."""
        assert not runs_on
        self.hand_over(task_id)
        self._run(task_id)

    def call(self, request: WindowRequest) -> Turn:
        """Count a call now, or hear when to try again."""
        who = request.entry if request.waits else ""
        wait, _ = self._windows.take(request.key, request.rate, request.length, who)
        now = self._world.now
        return Turn(now) if wait is None else Turn(None, now + wait)

    def give_up(self, request: WindowRequest) -> None:
        """Leave the queue."""
        self._windows.leave(request.key, request.entry)


def _message(task_id: str) -> Message:
    return Message(task_id, "f", "f", "", "[[],{}]", START, 9.0, 9.0)


def opened(kind: str, url: Callable[[str], str]) -> BackEnd:
    """Return a back end by its name.

    Args:
        kind: ``memory``, ``sqlite``, ``postgres`` or ``redis``.
        url: Returns the address of a database of a kind.
    """
    if kind == "memory":
        return Memory()
    return Redis(url(kind)) if kind == "redis" else Sql(url(kind))


KINDS: Final = ("memory", "sqlite", "postgres", "redis")
"""The names of all back ends; memory is the reference."""
