"""Sharing: what waits at a process without a free thread goes to one that has one.

Each process says in its row for how many more tasks it has threads, and of which functions. One
whose threads are all taken looks there, and sets as many of its waiting tasks free as the others
have threads for, the first ones first. They are claimed as all free tasks are; see `claims`.

While all are busy and free tasks wait, it keeps as many tasks as it has threads, those that come
first, and sets the others free that another process takes as well. It keeps none if no thread of
its own was free for a second. So tasks start by priority and age, whichever process got them; one
may be late by as many as all processes keep, and by what they start within that second. Where no
tasks are free, each process runs its own, which costs least.

The invariants:

1. Nobody takes a task from a process that lives. It sets the task free itself, which its ledger
   decides once: against a start, an end and a cancellation. From then on the task is the store's.
2. What a process says of its threads is a hint. If it is wrong, tasks are free for which nobody has
   a thread. A process with a backlog of its own takes them in their turn, a few at a time: so none
   of them is forgotten while all processes are busy.

Relies on: calls on the store's own thread.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework._tasks import registry
from framework._tasks.options import PRIORITIES
from framework.stores.sql._shared.free import claims as _claims
from framework.stores.sql._shared.free.claims import Waiting
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables.schema import PROCESSES

MOST: Final = 200
"""How many tasks a process sets free at once at most."""

PATIENCE: Final = 1.0
"""Seconds after which a process whose threads have all been taken since keeps no tasks."""

_IS_OWN: Final = PROCESSES.c.process_id == bindparam("own")
_TELL: Final = sa.update(PROCESSES).where(_IS_OWN).values(room=bindparam("said"))
_OTHERS: Final = (
    sa.select(PROCESSES.c.room, PROCESSES.c.takes)
    .where(~_IS_OWN, PROCESSES.c.takes.is_not(None))
    .order_by(PROCESSES.c.process_id)
)


class Room(NamedTuple):
    """What another process has said.

    Attributes:
        places: For how many more tasks it has threads now.
        names: Of which functions.
    """

    places: int
    names: Collection[str]


class Shares(NamedTuple):
    """What a process without a free thread does about tasks that wait.

    Attributes:
        give: Which of its own it sets free, by their positions.
        take: How many free ones it claims.
    """

    give: Sequence[int]
    take: int


def share(
    free: Sequence[Waiting],
    own: Sequence[Waiting],
    rooms: Sequence[Room],
    names: Collection[str],
    most: int,
) -> Shares:
    """Return what a process without a free thread does; the rule of sharing.

    The others' threads are for the first of all that wait, free or here. Of its own that find none
    there it keeps *most*, the first ones, and those that nobody else takes; all of them, if none is
    free that others take. Of the free ones it takes those whose turn is before all that it keeps.

    Args:
        free: The first free tasks.
        own: What waits here for a thread, one or more.
        rooms: What the other processes have said.
        names: The functions whose tasks this process takes.
        most: How many it keeps although others may take them.
    """
    # With their positions among its own. These come first of one moment: what it has just set
    # free is never before what it keeps, or it would take that back.
    line: list[tuple[Waiting, int | None]] = [(one, at) for at, one in enumerate(own)]
    line += [(one, None) for one in free]
    line.sort(key=lambda one: (one[0].level, one[0].created_at))
    found = _find_places([one.name for one, _ in line], rooms)
    give = [at for (_, at), is_able in zip(line, found, strict=True) if is_able and at is not None]
    left = [one for one, is_able in zip(line, found, strict=True) if not is_able]
    kept = [(one.name, at) for one, at in left if at is not None]
    known = frozenset[str]().union(*(room.names for room in rooms))
    if any(at is None and one.name in known for one, at in left):
        give += [at for name, at in kept[most:] if name in known]
    before = takewhile(lambda one: one[1] is None, left) if kept else ()
    return Shares(give, sum(one.name in names for one, _ in before))


def _find_places(names: Iterable[str], rooms: Sequence[Room]) -> list[bool]:
    """Return for which of some tasks there are threads, if each gets one in their order."""
    left, found = [room.places for room in rooms], list[bool]()
    for name in names:
        able = (at for at, room in enumerate(rooms) if left[at] > 0 and name in room.names)
        at = next(able, None)
        found.append(at is not None)
        if at is not None:
            left[at] -= 1
    return found


class Sharing:
    """Says for how many tasks this process has threads, and sets free what waits for one.

    Args:
        site: What it works with.
    """

    def __init__(self, site: Site) -> None:
        self._database = site.database
        self._membership = site.membership
        self._backlog = site.backlog
        self._host = site.host
        self._clock = site.clock
        # What this process has said last, if that was committed.
        self._told = -1
        # What was set free last: until it is written, the others seem to have threads for more.
        self._given: Sequence[str] = ()
        # What was claimed last beside own tasks: until it has started, no more is.
        self._taken: Sequence[str] = ()
        # What would start next, and since when.
        self._next = ("", 0.0)

    # -- what this process says

    def introduction(self) -> Mapping[str, Any]:
        """Return which functions this process takes, and for how many tasks it has threads.

        Its row says it with each beat, so that it comes right by itself after a transaction that
        failed.
        """
        self._told = self._places()
        return {"room": self._told, "takes": json.dumps(sorted(self._host.functions()["thread"]))}

    def tell(self, connection: Connection, claimed: Collection[TaskRecord] = ()) -> bool:
        """Say for how many more tasks there are threads, if that has changed and others care.

        Args:
            connection: A transaction that writes.
            claimed: The tasks that are claimed in it, and that the framework does not know yet.

        Returns:
            Whether it was said.
        """
        if not self._membership.has_others:
            return False
        places = max(0, self._places() - sum(map(_is_for_thread, claimed)))
        if places == self._told:
            return False
        self._told = places
        connection.execute(_TELL, {"own": self._membership.process_id, "said": places})
        return True

    def _places(self) -> int:
        # In this order, since the first is known at once when many wait.
        return 0 if self._host.in_line(1) else self._host.room().get("thread", 0)

    # -- what it does for others

    def go_on(self, sees_free: bool) -> int:
        """Set free what waits here for a thread, as far as others have threads for it.

        Args:
            sees_free: Whether there may be free tasks that this process would take.

        Returns:
            How many of these it is to claim although its threads are taken.
        """
        if not (sees_free or self._membership.has_others):
            return 0
        if any(map(self._backlog.comes, self._given)):
            return 0
        line = self._host.in_line(MOST)
        if not line:
            return 0
        names = frozenset(self._host.functions()["thread"])
        with self._database.reading() as connection:
            rows = connection.execute(_OTHERS, {"own": self._membership.process_id}).all()
            rooms = [Room(places, _names_in(known)) for places, known in rows]
            most = sum(room.places for room in rooms) + self._host.places
            known = names.union(*(room.names for room in rooms))
            found = known & _claims.present(connection, self._database.dialect)
            free = _claims.in_line(connection, found, most)
        own = [_waiting(record) for record in line]
        give, take = share(free, own, rooms, names, self._most(line[0].task_id))
        given = [line[at] for at in give]
        self._given = [str(record.task_id) for record in given]
        self._host.give_away(given)
        return 0 if any(map(self._waits, self._taken)) else min(take, self._host.places)

    def _most(self, first: str) -> int:
        """Return how many tasks to keep, of which *first* would start next."""
        now = self._clock.monotonic()
        if first != self._next[0]:
            self._next = first, now
        return 0 if now >= self._next[1] + PATIENCE else self._host.places

    def took(self, task_ids: Sequence[str]) -> None:
        """Note what was claimed because of the latest answer."""
        self._taken = task_ids

    def _waits(self, task_id: str) -> bool:
        record = self._backlog.live.get(task_id)
        return record is not None and record.status is TaskStatus.PENDING


@lru_cache(maxsize=64)
def _names_in(text: str) -> frozenset[str]:
    """Return the functions that a process has named; each says the same again and again."""
    return frozenset(json.loads(text))


def _is_for_thread(record: TaskRecord) -> bool:
    spec = registry.find_spec(record.name)
    return spec is not None and spec.kind == "thread"


def _waiting(record: TaskRecord) -> Waiting:
    restart = record.restart
    priority = "normal" if restart is None else restart.priority
    return Waiting(record.name, PRIORITIES.index(priority), record.created_at)
