"""The lines of all processes: which tasks have a place, and which wait for one.

Guarantees: at each commit, no line has more places than the limit of each task that has one, and
the first that waits could not have one; see `places.ask` for the rule. So whoever takes a row away
grants the place in the same transaction, and a task that waits cannot be forgotten. Rows of a dead
process are taken away, or belong to the new owner of the task, in the transaction that finds a new
owner for its tasks.
A task does not leave before its end is written: whoever sees that the next one has its place can
read how it ended. That a task is to be cancelled stands in its place until it has left, since its
process may not have written the task itself yet, or may not know it yet.
Relies on: `Site.turn`, which makes all writers of the database take turns; calls on the
store's own thread, except for `join` and `leave`.
Lock order: none is held here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import chain, islice, takewhile
from typing import Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._tasks.places import (
    GRANTED,
    MOST_AHEAD,
    RUNNING,
    PlaceAnswer,
    PlaceRequest,
    ask,
    grant_free,
    leave,
)
from framework.stores.sql._shared.requests import Requests
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables import cancelling
from framework.stores.sql._tables.free_rows import IS_FREE
from framework.stores.sql._tables.schema import PLACES, PROCESSES, TASKS
from framework.stores.sql._tables.statements import parts

Told: TypeAlias = Callable[[PlaceAnswer], object]
Asked: TypeAlias = "tuple[PlaceRequest, Told] | str"
"""A request with whom to tell, or the id of a task that leaves."""

Place: TypeAlias = tuple[str, str]
"""A line and a task."""

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
_ANY_HOMELESS: Final = sa.select(PLACES.c.line).where(_HOMELESS).limit(1)
_OWNER: Final = sa.select(TASKS.c.process).where(
    TASKS.c.task_id == PLACES.c.task_id, TASKS.c.ended_at.is_(None)
)
_LIVE: Final = _OWNER.exists()
_ADOPTED: Final = sa.update(PLACES).where(_HOMELESS, _LIVE).values(process=_OWNER.scalar_subquery())
LOST: Final = sa.select(PLACES.c.line).where(_HOMELESS, ~_LIVE).distinct()
"""The lines with places of processes without a row, and of no live task."""
_LOSE: Final = sa.delete(PLACES).where(_HOMELESS, ~_LIVE)
# Those that no process can read from its places: whoever looks after orphans cancels them.
_UNWANTED: Final = sa.and_(
    TASKS.c.cancel_requested == 0,
    TASKS.c.task_id.in_(
        sa.select(PLACES.c.task_id).where(PLACES.c.replaced_by.is_not(None), _HOMELESS)
    ),
)


class SharedLines:
    """The lines of all processes; see `protocols.SharedPlaces`.

    Args:
        site: What it works with.
        cancel: Cancels a task of this process for a reason, if it is known yet and nobody has
            asked for that before; called on the store's thread.
    """

    def __init__(self, site: Site, cancel: Callable[[str, str], object]) -> None:
        self._site = site
        self._membership = site.membership
        self._comes = site.backlog.comes
        self._cancel = cancel
        self.requests = Requests[Asked](site)
        # The tasks of this process that are in a line, and by line whom to tell of each that
        # waits; the store's thread alone uses it.
        self._inside: dict[str, dict[str, Told]] = {}
        self._seen = 0

    # -- any thread

    def join(self, request: PlaceRequest, told: Told) -> None:
        """Ask for a place; see `protocols.SharedPlaces.join`."""
        self.requests.add((request, told))

    def leave(self, task_id: str) -> None:
        """Take a task out of all lines; see `protocols.SharedPlaces.leave`."""
        self.requests.add(task_id)

    # -- the store's thread

    def settle(self) -> None:
        """Answer the requests in their order, up to a task that leaves when its end is written.

        Raises:
            GivenUpError: If the others consider this process dead.
            SQLAlchemyError: If the database fails; requests that have no answer are kept.
        """
        self.requests.settle(self._answered, self._may_be_answered)

    def leaving(self) -> list[str]:
        """Return the tasks that leave before anything else is asked, in their order."""
        some = takewhile(lambda one: isinstance(one, str), self.requests.first())
        return [one for one in some if isinstance(one, str)]

    def let_leave(
        self,
        connection: Connection,
        version: int,
        written: Collection[str],
        asleep: Collection[str],
    ) -> Callable[[], object]:
        """Take the tasks out that leave before anything else is asked, and those that sleep.

        Args:
            connection: A transaction of this process's turn.
            version: Its version.
            written: The tasks that it writes. Others leave if they need not be written.
            asleep: The tasks that it sets free and that sleep. They leave the lines of tasks that
                run, and ask anew when they wake. What they are unique by they keep.

        Returns:
            Tells everybody, after the commit.
        """
        some = list(takewhile(lambda one: one in written or not self._comes(one), self.leaving()))
        tell = self._answered(connection, version, some, asleep)

        def told() -> None:
            self.requests.drop(len(some))
            tell()

        return told

    def _may_be_answered(self, asked: Asked) -> bool:
        """Return whether a request need not wait for a record to be written."""
        return not (isinstance(asked, str) and self._comes(asked))

    def _answered(
        self,
        connection: Connection,
        version: int,
        some: Sequence[Asked],
        asleep: Collection[str] = (),
    ) -> Callable[[], object]:
        """Answer requests in a transaction; return what tells everybody after its commit."""
        step = _Step(connection, self._membership.process_id, version)
        step.let_sleep(asleep)
        answers = [step.answer(one) for one in some]

        def tell() -> None:
            for asked, answer in zip(some, answers, strict=True):
                self._tell(asked, answer)
            for place in step.granted:
                self._tell_granted(place)
            self._cancel_all(step.replaced)

        return tell

    def _tell(self, asked: Asked, answer: PlaceAnswer | None) -> None:
        if isinstance(asked, str):
            self._inside.pop(asked, None)
        elif answer is not None:
            request, told = asked
            if request.waits or answer.granted:
                lines = self._inside.setdefault(request.task_id, {})
                if not answer.granted:
                    lines[request.key] = told
            told(answer)

    def _tell_granted(self, place: Place) -> None:
        line, task_id = place
        told = self._inside.get(task_id, {}).pop(line, None)
        if told is not None:
            told(GRANTED)

    def _cancel_all(self, replaced: Sequence[tuple[str, str]]) -> None:
        for task_id, by in replaced:
            self._cancel(task_id, f"it was replaced by task {by}")

    def has(self, task_id: str) -> bool:
        """Return whether a task that was submitted here is in a line."""
        return task_id in self._inside

    @property
    def waits(self) -> bool:
        """Whether tasks of this process are in a line, where others may grant or replace them."""
        return bool(self._inside)

    def forget(self, task_ids: Collection[str]) -> None:
        """Forget tasks that this process has given away: nobody here waits for their places."""
        for task_id in task_ids:
            self._inside.pop(task_id, None)

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
        with self._site.database.reading() as connection:
            granted = connection.execute(_GRANTED_SINCE, {"own": own, "since": since}).all()
            replaced = connection.execute(_REPLACED, {"own": own}).all()
        self._seen = version
        for line, task_id in granted:
            self._tell_granted((line, task_id))
        self._cancel_all([(task_id, by) for task_id, by in replaced])


class _Step:
    """One transaction, in which it is this process's turn; a `places.LineTable`.

    Attributes:
        granted: The places that were granted to tasks which waited.
        replaced: The tasks of this process that are to be cancelled, each with the one that
            replaces it.
    """

    def __init__(self, connection: Connection, process: str, version: int) -> None:
        self._connection = connection
        self._process = process
        self._version = version
        self._entered = 0
        # How many have a place, by line; and where nobody is over, since that stays so.
        self._placed: dict[str, int] = {}
        self._without_over: set[str] = set()
        # Of a thousand submissions of a unique task all but the first get the same answer.
        self._refused: dict[tuple[str, int], PlaceAnswer] = {}
        self.granted: list[Place] = []
        self.replaced: list[tuple[str, str]] = []

    def let_sleep(self, task_ids: Collection[str]) -> None:
        """Take tasks out of the lines of those that run, and give their places on."""
        for some in parts(task_ids):
            left = sa.and_(PLACES.c.task_id.in_(some), PLACES.c.line.startswith(RUNNING))
            lines = self._connection.execute(sa.select(PLACES.c.line).where(left)).scalars().all()
            if lines:
                self._connection.execute(sa.delete(PLACES).where(left))
                grant_free(self, set(lines))

    def answer(self, asked: Asked) -> PlaceAnswer | None:
        """Do what is asked; return the answer, None for a task that leaves."""
        if isinstance(asked, str):
            self._refused.clear()
            leave(self, asked)
            return None
        request, _ = asked
        if request.waits:
            self._refused.clear()
            answer = ask(self, request)
            if request.replaces and not answer.granted:
                answer = PlaceAnswer(False, answer.others, True)
            return answer
        known = self._refused.get((request.key, request.limit))
        if known is not None and request.task_id not in known.others:
            return known
        answer = ask(self, request)
        if not answer.granted:
            self._refused[request.key, request.limit] = answer
        return answer

    def has_place(self, request: PlaceRequest) -> bool | None:
        """See `places.LineTable`."""
        own = {"in_line": request.key, "of_task": request.task_id}
        granted = self._connection.execute(_OWN, own).scalar()
        return None if granted is None else bool(granted)

    def placed(self, key: str) -> int:
        """See `places.LineTable`."""
        if key not in self._placed:
            found = self._connection.execute(_COUNT, {"in_line": key})
            self._placed[key] = int(found.scalar_one())
        return self._placed[key]

    def first(self, key: str) -> PlaceRequest | None:
        """See `places.LineTable`."""
        row = self._connection.execute(_NEXT, {"in_line": key}).first()
        if row is None:
            return None
        return PlaceRequest(key, row.task_id, row.places, rank=row.place_rank)

    def others(self, request: PlaceRequest) -> tuple[str, ...]:
        """See `places.LineTable`."""
        values = {"in_line": request.key, "of_task": request.task_id}
        found = [self._connection.execute(query, values).scalars() for query in _OTHERS]
        return tuple(islice(chain(*found), MOST_AHEAD))

    def enter(self, request: PlaceRequest, granted: bool) -> None:
        """See `places.LineTable`."""
        self._entered += 1
        row = {
            "line": request.key,
            "task_id": request.task_id,
            "process": self._process,
            "places": request.limit,
            "place_rank": request.rank,
            "position": self._version * _POSITIONS + self._entered,
            "granted": int(granted),
            "version": self._version,
        }
        self._connection.execute(_ENTER, row)
        self._count(request.key, int(granted))
        if request.replaces and not granted:
            self._replace(request)

    def grant(self, request: PlaceRequest) -> None:
        """See `places.LineTable`."""
        own = {"in_line": request.key, "of_task": request.task_id, "at_version": self._version}
        self._connection.execute(_GRANT, own)
        self._count(request.key, 1)
        self.granted.append((request.key, request.task_id))

    def drop_over(self, key: str) -> Sequence[str]:
        """See `places.LineTable`."""
        # Once: whether a task is over does not change in this transaction.
        if key in self._without_over:
            return ()
        self._without_over.add(key)
        dropped = self._connection.execute(_DROP_OVER, {"in_line": key}).rowcount
        self._count(key, -dropped)
        return (key,) if dropped else ()

    def drop(self, task_id: str) -> Sequence[str]:
        """See `places.LineTable`."""
        lines = list(self._connection.execute(_LINES_OF, {"of_task": task_id}).scalars())
        if lines:
            self._connection.execute(_LEAVE, {"of_task": task_id})
        for line in lines:
            self._placed.pop(line, None)
        return lines

    def _count(self, key: str, more: int) -> None:
        if key in self._placed:
            self._placed[key] += more

    def _replace(self, request: PlaceRequest) -> None:
        """Ask for the cancellation of all others that are in a line."""
        by = request.task_id
        self._connection.execute(_REPLACE, {"in_line": request.key, "by": by})
        cancelling.ask(self._connection, _UNWANTED, self._version)
        found = self._connection.execute(_REPLACED, {"own": self._process})
        self.replaced += [(one, other) for one, other in found if other == by]


def set_free(connection: Connection, version: int, task_ids: Collection[str], process: str) -> None:
    """Let the places of *process* that belong to free tasks belong to nobody, as the tasks do."""
    found = 0
    for some in parts(task_ids):
        own = sa.and_(PLACES.c.task_id.in_(some), PLACES.c.process == process)
        found += connection.execute(sa.update(PLACES).where(own).values(process="")).rowcount
    if found:
        cancelling.ask(connection, _UNWANTED, version)


def leave_free(connection: Connection, version: int, process: str) -> None:
    """Do the same for all free tasks of which *process* has places."""
    free = sa.exists().where(TASKS.c.task_id == PLACES.c.task_id, IS_FREE)
    own = sa.and_(PLACES.c.process == process, free)
    connection.execute(sa.update(PLACES).where(own).values(process=""))
    cancelling.ask(connection, _UNWANTED, version)


def is_held_on(connection: Connection, process: str) -> bool:
    """Return whether a task of a process has ended, and has a place since its function runs on."""
    return connection.execute(_HELD_ON, {"own": process}).first() is not None


def inherit(connection: Connection, version: int) -> bool:
    """Give the places of processes without a row to those that have their tasks now.

    Those of tasks that have ended are given to whoever waits. Called in the transaction that
    has decided what becomes of the tasks.

    Returns:
        Whether there were any.
    """
    if connection.execute(_ANY_HOMELESS).first() is None:
        return False
    connection.execute(_ADOPTED)
    cancelling.ask(connection, _UNWANTED, version)
    lines = list(connection.execute(LOST).scalars())
    if lines:
        connection.execute(_LOSE)
        grant_free(_Step(connection, "", version), lines)
    return True
