"""The windows of throttles that all processes share.

A call is counted at the time of the call that used its slot before, plus the window, or now if
that is later. Its slot is that of the call which is as many calls back as the rate; so no
half-open interval of the window's length has more calls than that, also if calls are counted in
the future, or some are given back.

Guarantees: counted times are whole microseconds of one clock, that of the PostgreSQL server, or
of the machine for SQLite. If that clock is set back, calls wait longer, and are never too many.
Relies on: `Membership.turn`, which makes all writers of the database take turns; calls on the
store's own thread, except for `reserve` and `give_back`.
Lock order: none is held here; `_asked` is a deque, to which other threads append.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._threads.clock import SystemClock
from framework.protocols._windows import WindowAnswer, WindowRequest
from framework.stores.sql._shared.membership import Membership
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import WINDOWS

Told: TypeAlias = Callable[[WindowAnswer], object]
Asked: TypeAlias = "tuple[WindowRequest, Told] | tuple[str, str]"
"""A request with whom to tell, or the key and the entry of a call that is given back."""

BATCH: Final = 200
"""Maximum number of requests in one transaction."""

_MICRO: Final = 1_000_000
_CLEANING: Final = 60.0
"""Seconds between two removals of the calls that have left their windows, of all keys."""

_OF_KEY: Final = WINDOWS.c.line == bindparam("of_key")
_LEFT: Final = WINDOWS.c.leaves_at <= bindparam("now")
_DROP: Final = sa.delete(WINDOWS).where(_OF_KEY, WINDOWS.c.entry == bindparam("of_entry"))
_CLEAN: Final = sa.delete(WINDOWS).where(_LEFT)
_CLEAN_KEY: Final = sa.delete(WINDOWS).where(_OF_KEY, _LEFT)
_SLOT: Final = (
    sa.select(WINDOWS.c.counted_at)
    .where(_OF_KEY)
    .order_by(WINDOWS.c.counted_at.desc())
    .limit(1)
    .offset(bindparam("back"))
)
_COUNT: Final = sa.insert(WINDOWS)


class WindowRows:
    """The windows in one database; see `protocols.SharedWindows`.

    Args:
        database: Where they are.
        membership: This process among the others.
        clock: The machine's time, for SQLite.
        wake: Wakes the store's thread.
    """

    def __init__(
        self,
        database: Database,
        membership: Membership,
        clock: SystemClock,
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._membership = membership
        self._clock = clock
        self._wake = wake
        self._asked: deque[Asked] = deque()
        self._cleaned = -math.inf

    # -- any thread

    def reserve(self, request: WindowRequest, told: Told) -> None:
        """Count a call; see `protocols.SharedWindows.reserve`."""
        self._asked.append((request, told))
        self._wake()

    def give_back(self, key: str, entry: str) -> None:
        """Take a counted call out of its window; see `protocols.SharedWindows.give_back`."""
        self._asked.append((key, entry))
        self._wake()

    @property
    def waits(self) -> bool:
        """Whether there is a request to answer."""
        return bool(self._asked)

    # -- the store's thread

    def settle(self) -> None:
        """Answer all requests, in their order.

        Raises:
            GivenUpError: If the others consider this process dead.
            SQLAlchemyError: If the database fails; requests that have no answer are kept.
        """
        while self._asked:
            some = list(islice(self._asked, BATCH))
            answers: list[tuple[Told, WindowAnswer]] = []
            with self._database.writing() as connection:
                self._membership.turn(connection)
                now = self._now(connection)
                self._clean(connection, now)
                for asked in some:
                    if isinstance(asked[0], WindowRequest):
                        request, told = asked[0], asked[1]
                        assert callable(told)
                        answers.append((told, _counted(connection, request, now)))
                    else:
                        key, entry = asked
                        connection.execute(_DROP, {"of_key": key, "of_entry": entry})
            for _ in some:
                self._asked.popleft()
            for told, answer in answers:
                told(answer)

    def _now(self, connection: Connection) -> int:
        """Return the microsecond by the clock that all processes share."""
        return self._database.dialect.microsecond(connection, self._clock)

    def _clean(self, connection: Connection, now: int) -> None:
        """Remove the calls that have left their windows, now and then."""
        if self._clock.monotonic() >= self._cleaned + _CLEANING:
            connection.execute(_CLEAN, {"now": now})
            self._cleaned = self._clock.monotonic()


def _counted(connection: Connection, request: WindowRequest, now: int) -> WindowAnswer:
    """Count a call, if it may wait as long as it has to."""
    key = {"of_key": request.key}
    connection.execute(_CLEAN_KEY, {**key, "now": now})
    connection.execute(_DROP, {**key, "of_entry": request.entry})
    length = math.ceil(request.length * _MICRO)
    soonest = at = now + math.ceil(request.ahead * _MICRO)
    slot = connection.execute(_SLOT, {**key, "back": request.rate - 1}).scalar()
    if slot is not None:
        at = max(at, slot + length)
    counted = request.waits or at == soonest
    if counted:
        row = {
            "line": request.key,
            "entry": request.entry,
            "counted_at": at,
            "leaves_at": at + length,
        }
        connection.execute(_COUNT, row)
    return WindowAnswer(counted, (at - now) / _MICRO)
