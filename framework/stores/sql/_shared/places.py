"""The lines of all processes: which tasks have a place, and which wait for one.

Guarantees: at each commit, no line has more places than the limit of each task that has one, and
the first that waits could not have one. So whoever takes a row away grants the place in the same
transaction, and a task that waits cannot be forgotten. Rows of a dead process are taken away, or
belong to the new owner of the task, in the transaction that finds a new owner for its tasks.
A task does not leave before its end is written: whoever sees that the next one has its place can
read how it ended. That a task is to be cancelled stands in its place until it has left, since its
process may not have written the task itself yet, or may not know it yet.
Relies on: `Membership.turn`, which makes all writers of the database take turns; calls on the
store's own thread, except for `join` and `leave`.
Lock order: none is held here; `_asked` is a deque, to which other threads append.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import islice, takewhile
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._tasks.places import GRANTED, MOST_AHEAD, PlaceAnswer, PlaceRequest
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._shared.membership import Membership
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import PLACES, PROCESSES, TASKS

Told: TypeAlias = Callable[[PlaceAnswer], object]
Asked: TypeAlias = "tuple[PlaceRequest, Told] | str"
"""A request with whom to tell, or the id of a task that leaves."""

Place: TypeAlias = tuple[str, str]
"""A line and a task."""

BATCH: Final = 200
"""Maximum number of requests in one transaction."""

_POSITIONS: Final = 1_000_000
"""Positions in the lines for each version."""

_IN_LINE: Final = PLACES.c.line == bindparam("in_line")
_OF_TASK: Final = PLACES.c.task_id == bindparam("of_task")
_PLACED: Final = sa.and_(_IN_LINE, PLACES.c.granted == 1)
_WAITING: Final = sa.and_(_IN_LINE, PLACES.c.granted == 0)

_OWN: Final = sa.select(PLACES.c.granted).where(_IN_LINE, _OF_TASK)
_COUNT: Final = sa.select(sa.func.count()).select_from(PLACES).where(_PLACED)
_NEXT: Final = (
    sa.select(PLACES.c.task_id, PLACES.c.places, PLACES.c.place_rank)
    .where(_WAITING)
    .order_by(PLACES.c.place_rank, PLACES.c.position)
    .limit(1)
)
# Two queries, each in the order of the index: a line may be long.
_OTHERS: Final = tuple(
    sa.select(PLACES.c.task_id)
    .where(group, PLACES.c.task_id != bindparam("of_task"))
    .order_by(PLACES.c.place_rank, PLACES.c.position)
    .limit(MOST_AHEAD)
    for group in (_PLACED, _WAITING)
)
_ENTER: Final = sa.insert(PLACES)
_GRANT: Final = (
    sa.update(PLACES).where(_IN_LINE, _OF_TASK).values(granted=1, version=bindparam("at_version"))
)
_LINES_OF: Final = sa.select(PLACES.c.line).where(_OF_TASK)
_LEAVE: Final = sa.delete(PLACES).where(_OF_TASK)
# Correlated: a subquery of its own would read all finished tasks.
_OVER: Final = (
    sa.select(TASKS.c.task_id)
    .where(
        TASKS.c.task_id == PLACES.c.task_id,
        TASKS.c.ended_at.is_not(None),
        TASKS.c.still_running == 0,
    )
    .exists()
)
_HELD_ON: Final = (
    sa.select(PLACES.c.line)
    .join(TASKS, TASKS.c.task_id == PLACES.c.task_id)
    .where(
        PLACES.c.process == bindparam("own"),
        PLACES.c.granted == 1,
        TASKS.c.ended_at.is_not(None),
        TASKS.c.still_running == 1,
    )
    .limit(1)
)
_DROP_OVER: Final = sa.delete(PLACES).where(_PLACED, _OVER)
_GRANTED_SINCE: Final = sa.select(PLACES.c.line, PLACES.c.task_id).where(
    PLACES.c.process == bindparam("own"),
    PLACES.c.granted == 1,
    PLACES.c.version > bindparam("since"),
)
_REPLACE: Final = (
    sa.update(PLACES)
    .where(_IN_LINE, PLACES.c.task_id != bindparam("by"), PLACES.c.replaced_by.is_(None))
    .values(replaced_by=bindparam("by"))
)
_REPLACED: Final = sa.select(PLACES.c.task_id, PLACES.c.replaced_by).where(
    PLACES.c.process == bindparam("own"), PLACES.c.replaced_by.is_not(None)
)

_HOMELESS: Final = PLACES.c.process.not_in(sa.select(PROCESSES.c.process_id))
_OWNER: Final = sa.select(TASKS.c.process).where(
    TASKS.c.task_id == PLACES.c.task_id, TASKS.c.ended_at.is_(None)
)
_LIVE: Final = _OWNER.exists()
_ADOPTED: Final = sa.update(PLACES).where(_HOMELESS, _LIVE).values(process=_OWNER.scalar_subquery())
_LOST: Final = sa.select(PLACES.c.line).where(_HOMELESS, ~_LIVE).distinct()
_LOSE: Final = sa.delete(PLACES).where(_HOMELESS, ~_LIVE)
# Those that no process can read from its places: whoever looks after orphans cancels them.
_UNWANTED: Final = (
    sa.update(TASKS)
    .where(
        TASKS.c.ended_at.is_(None),
        TASKS.c.cancel_requested == 0,
        TASKS.c.task_id.in_(
            sa.select(PLACES.c.task_id).where(PLACES.c.replaced_by.is_not(None), _HOMELESS)
        ),
    )
    .values(cancel_requested=1, version=bindparam("at_version"))
)


class Settled(NamedTuple):
    """What a transaction has settled, to be told once it is committed.

    Attributes:
        asked: The first requests of all, in their order.
        answers: The answer to each of them; None for a task that left.
        granted: The places that were granted to tasks which waited.
        replaced: The tasks of this process that are to be cancelled, each with the one that
            replaces it.
    """

    asked: Sequence[Asked]
    answers: Sequence[PlaceAnswer | None]
    granted: Sequence[Place]
    replaced: Sequence[tuple[str, str]]


class SharedLines:
    """The lines of all processes; see `protocols.SharedPlaces`.

    Args:
        database: Where they are.
        membership: This process among the others.
        backlog: The records that wait to be written.
        cancel: Cancels a task of this process for a reason, if it is known yet and nobody has
            asked for that before; called on the store's thread.
    """

    def __init__(
        self,
        database: Database,
        membership: Membership,
        backlog: Backlog,
        cancel: Callable[[str, str], object],
    ) -> None:
        self._database = database
        self._membership = membership
        self._wake = backlog.wake
        self._comes = backlog.comes
        self._cancel = cancel
        self._asked: deque[Asked] = deque()
        # The tasks of this process that are in a line; the store's thread alone uses it.
        self._inside: set[str] = set()
        # By task, and then by line.
        self._waiting: dict[str, dict[str, Told]] = {}
        self._seen = 0

    # -- any thread

    def join(self, request: PlaceRequest, told: Told) -> None:
        """Ask for a place; see `protocols.SharedPlaces.join`."""
        self._asked.append((request, told))
        self._wake()

    def leave(self, task_id: str) -> None:
        """Take a task out of all lines; see `protocols.SharedPlaces.leave`."""
        self._asked.append(task_id)
        self._wake()

    @property
    def waits(self) -> bool:
        """Whether there is a request to answer."""
        return bool(self._asked)

    @property
    def waiters(self) -> int:
        """How many requests there are to answer."""
        return len(self._asked)

    # -- the store's thread

    def settle(self) -> None:
        """Answer the requests in their order, up to a task that leaves when its end is written.

        Raises:
            GivenUpError: If the others consider this process dead.
            SQLAlchemyError: If the database fails; requests that have no answer are kept.
        """
        while some := self._next():
            with self._database.writing() as connection:
                version, _ = self._membership.turn(connection)
                settled = self._settle(connection, version, some)
            self.tell(settled)

    def leaving(self) -> list[str]:
        """Return the tasks that leave before anything else is asked, in their order."""
        some = takewhile(lambda one: isinstance(one, str), list(islice(self._asked, BATCH)))
        return [one for one in some if isinstance(one, str)]

    def let_leave(self, connection: Connection, version: int, written: Collection[str]) -> Settled:
        """Take the tasks out that leave before anything else is asked.

        Args:
            connection: A transaction of this process's turn.
            version: Its version.
            written: The tasks that it writes. Others leave if they need not be written.
        """
        some = takewhile(lambda one: one in written or not self._comes(one), self.leaving())
        return self._settle(connection, version, list(some))

    def _next(self) -> list[Asked]:
        """Return the next requests that need not wait for a record to be written."""
        some = list(islice(self._asked, BATCH))
        return list(takewhile(lambda one: not (isinstance(one, str) and self._comes(one)), some))

    def _settle(self, connection: Connection, version: int, some: Sequence[Asked]) -> Settled:
        step = _Step(connection, self._membership.process_id, version)
        return Settled(some, [step.answer(one) for one in some], step.granted, step.replaced)

    def tell(self, settled: Settled) -> None:
        """Tell everybody what a transaction has settled, after its commit."""
        for _ in settled.asked:
            self._asked.popleft()
        for asked, answer in zip(settled.asked, settled.answers, strict=True):
            if isinstance(asked, str):
                self._waiting.pop(asked, None)
                self._inside.discard(asked)
            elif answer is not None:
                request, told = asked
                if request.waits or answer.granted:
                    self._inside.add(request.task_id)
                if request.waits and not answer.granted:
                    self._waiting.setdefault(request.task_id, {})[request.key] = told
                told(answer)
        for place in settled.granted:
            self._tell_granted(place)
        self._cancel_all(settled.replaced)

    def _tell_granted(self, place: Place) -> None:
        line, task_id = place
        lines = self._waiting.get(task_id, {})
        told = lines.pop(line, None)
        if not lines:
            self._waiting.pop(task_id, None)
        if told is not None:
            told(GRANTED)

    def _cancel_all(self, replaced: Sequence[tuple[str, str]]) -> None:
        for task_id, by in replaced:
            self._cancel(task_id, f"it was replaced by task {by}")

    def look(self, version: int) -> None:
        """Tell those that have been granted a place by other processes, up to *version*.

        Those that others replace are cancelled. One that is not known here yet is cancelled when
        it is: its record is written then, which makes a new version.
        """
        if not self._inside or version == self._seen:
            return
        own = self._membership.process_id
        # A backup that was put back has an earlier version than was read before.
        since = self._seen if version > self._seen else -1
        with self._database.reading() as connection:
            granted = connection.execute(_GRANTED_SINCE, {"own": own, "since": since}).all()
            replaced = connection.execute(_REPLACED, {"own": own}).all()
        self._seen = version
        for line, task_id in granted:
            self._tell_granted((line, task_id))
        self._cancel_all([(task_id, by) for task_id, by in replaced])


class _Step:
    """One transaction, in which it is this process's turn.

    Attributes:
        granted: The places that were granted to tasks which waited.
        replaced: The tasks of this process that are to be cancelled; see `Settled`.
    """

    def __init__(self, connection: Connection, process: str, version: int) -> None:
        self._connection = connection
        self._process = process
        self._version = version
        self._entered = 0
        # Of a thousand submissions of a unique task all but the first get the same answer.
        self._refused: dict[tuple[str, int], PlaceAnswer] = {}
        self.granted: list[Place] = []
        self.replaced: list[tuple[str, str]] = []

    def answer(self, asked: Asked) -> PlaceAnswer | None:
        """Do what is asked; return the answer, None for a task that leaves."""
        if isinstance(asked, str):
            self._refused.clear()
            self._leave(asked)
            return None
        request, _ = asked
        if request.waits:
            self._refused.clear()
            return self._answer(request)
        known = self._refused.get((request.key, request.limit))
        if known is not None and request.task_id not in known.others:
            return known
        answer = self._answer(request)
        if not answer.granted:
            self._refused[request.key, request.limit] = answer
        return answer

    def _answer(self, request: PlaceRequest) -> PlaceAnswer:
        line = {"in_line": request.key}
        own = self._connection.execute(_OWN, {**line, "of_task": request.task_id}).first()
        if own is None and self._may_enter(request, line):
            return GRANTED
        if own is None and request.waits:
            self._enter(request, granted=0)
            if request.replaces:
                self._replace(request.task_id, line)
        elif own is not None and own[0]:
            return GRANTED
        values = {**line, "of_task": request.task_id}
        others = [
            one for query in _OTHERS for one in self._connection.execute(query, values).scalars()
        ]
        return PlaceAnswer(False, tuple(others[:MOST_AHEAD]), request.replaces)

    def _replace(self, task_id: str, line: dict[str, Any]) -> None:
        """Ask for the cancellation of all that are in a line with *task_id*."""
        self._connection.execute(_REPLACE, {**line, "by": task_id})
        self._connection.execute(_UNWANTED, {"at_version": self._version})
        found = self._connection.execute(_REPLACED, {"own": self._process})
        self.replaced += [(one, by) for one, by in found if by == task_id]

    def _may_enter(self, request: PlaceRequest, line: dict[str, Any]) -> bool:
        """Give a task a place if one is free and nobody comes before it."""
        first = self._connection.execute(_NEXT, line).first()
        if first is not None and first.place_rank <= request.rank:
            return False
        if self._count(line) >= request.limit:
            # If nobody waits; otherwise it is the turn of those who do, once the task leaves.
            if first is not None or not self._connection.execute(_DROP_OVER, line).rowcount:
                return False
            if self._count(line) >= request.limit:
                return False
        self._enter(request, granted=1)
        return True

    def _count(self, line: dict[str, Any]) -> int:
        return int(self._connection.execute(_COUNT, line).scalar_one())

    def _enter(self, request: PlaceRequest, *, granted: int) -> None:
        self._entered += 1
        row = {
            "line": request.key,
            "task_id": request.task_id,
            "process": self._process,
            "places": request.limit,
            "place_rank": request.rank,
            "position": self._version * _POSITIONS + self._entered,
            "granted": granted,
            "version": self._version,
        }
        self._connection.execute(_ENTER, row)

    def _leave(self, task_id: str) -> None:
        lines = list(self._connection.execute(_LINES_OF, {"of_task": task_id}).scalars())
        if not lines:
            return
        self._connection.execute(_LEAVE, {"of_task": task_id})
        for line in lines:
            self.grant(line)

    def grant(self, line: str) -> None:
        """Give the free places of a line to the first that wait."""
        values = {"in_line": line}
        placed = self._count(values)
        while (first := self._connection.execute(_NEXT, values).first()) is not None:
            if placed >= first.places:
                return
            own = {"of_task": first.task_id, "at_version": self._version}
            self._connection.execute(_GRANT, {**values, **own})
            self.granted.append((line, first.task_id))
            placed += 1


def is_held_on(connection: Connection, process: str) -> bool:
    """Return whether a task of a process has ended, and has a place since its function runs on."""
    return connection.execute(_HELD_ON, {"own": process}).first() is not None


def inherit(connection: Connection, version: int) -> None:
    """Give the places of processes without a row to those that have their tasks now.

    Those of tasks that have ended are given to whoever waits. Called in the transaction that
    has decided what becomes of the tasks.
    """
    connection.execute(_ADOPTED)
    connection.execute(_UNWANTED, {"at_version": version})
    lines = list(connection.execute(_LOST).scalars())
    if not lines:
        return
    connection.execute(_LOSE)
    step = _Step(connection, "", version)
    for line in lines:
        step.grant(line)


def has_homeless(connection: Connection) -> bool:
    """Return whether a place belongs to a process without a row and to no live task."""
    return connection.execute(_LOST.limit(1)).first() is not None
