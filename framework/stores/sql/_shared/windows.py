"""The windows of throttles that all processes share.

A call is counted at the time of the call that used its slot before, plus the window, or now if
that is later. Its slot is that of the call which is as many calls back as the rate; so no
half-open interval of the window's length has more calls than that, also if calls are counted in
the future, or some are given back.

Calls whose turn comes later than they ask for are not counted yet. Each has a row in the line of
its window: its number, which says who is ahead, and its turn as it was when it asked last. A call
that comes back is counted as if those ahead of it had been counted at their turns; those behind
it do not matter. Who does not come at its turn holds up the others for `_GRACE` only, and a task
that has ended holds up nobody.

With SQLite the clock is that of the machine since it has started, which nobody sets. It goes on
from the wall clock as whoever counted first since then had it; a row without a line has how far
apart they are.

Guarantees: counted times are whole microseconds of one clock, that of the PostgreSQL server, or
of the machine for SQLite. If that of the server is set back, calls wait longer, and are never too
many.
Relies on: calls on the store's own thread, except for `reserve` and `give_back`.
Lock order: none is held here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._threads.watch import processes
from framework.protocols import WindowAnswer, WindowRequest
from framework.stores.sql._shared.requests import Requests
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables.schema import TASKS, WINDOWS

Told: TypeAlias = Callable[[WindowAnswer], object]
Asked: TypeAlias = "tuple[WindowRequest, Told] | tuple[str, str]"
"""A request with whom to tell, or the key and the entry of a call that is given back."""

_MICRO: Final = 1_000_000
_NEVER: Final = 2**63 - 1
_GRACE: Final = _MICRO
"""Microseconds after its turn for which a call stands in the line that does not come."""

_CLEANING: Final = 60.0
"""Seconds between two removals of the calls that have left their windows, of all keys."""

_OF_KEY: Final = WINDOWS.c.line == bindparam("of_key")
_LEFT: Final = WINDOWS.c.leaves_at <= bindparam("now")
_LINE: Final = WINDOWS.c.line == bindparam("of_line")
_DROP: Final = sa.delete(WINDOWS).where(_OF_KEY, WINDOWS.c.entry == bindparam("of_entry"))
_ANCHOR: Final = sa.select(WINDOWS.c.counted_at).where(
    _OF_KEY, WINDOWS.c.entry == bindparam("of_entry")
)
_CLEAN: Final = sa.delete(WINDOWS).where(_LEFT)
_CLEAN_KEY: Final = sa.delete(WINDOWS).where(_OF_KEY, _LEFT)
_TURN: Final = "turn"
_COUNTED: Final = (
    sa.select(WINDOWS.c.counted_at.label(_TURN))
    .where(_OF_KEY)
    .order_by(WINDOWS.c.counted_at.desc())
    .limit(bindparam("rate"))
)
_ENDED: Final = sa.exists().where(TASKS.c.task_id == WINDOWS.c.entry, TASKS.c.ended_at.is_not(None))
"""Whether a place is that of a task that has ended, so that it will not come."""

_AHEAD: Final = (
    sa.select((WINDOWS.c.leaves_at - _GRACE).label(_TURN))
    .where(_LINE, WINDOWS.c.counted_at < bindparam("number"), ~_LEFT, ~_ENDED)
    .order_by(WINDOWS.c.counted_at.desc())
    .limit(bindparam("rate"))
)
_HOW_MANY: Final = sa.select(sa.func.count()).select_from(_AHEAD.subquery())
_MANY: Final = 500
"""How many calls ahead are counted at most."""

_SLOT: Final = (
    sa.union_all(_COUNTED.subquery().select(), _AHEAD.subquery().select())
    .order_by(sa.desc(_TURN))
    .limit(1)
    .offset(bindparam("back"))
)
_LAST: Final = sa.select(sa.func.max(WINDOWS.c.counted_at)).where(_LINE)
_COUNT: Final = sa.insert(WINDOWS)


class WindowRows:
    """The windows in one database; see `protocols.SharedWindows`.

    Args:
        site: What it works with.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._clock = site.clock
        self.requests = Requests[Asked](site)
        self._cleaned = -math.inf

    # -- any thread

    def reserve(self, request: WindowRequest, told: Told) -> None:
        """Count a call; see `protocols.SharedWindows.reserve`."""
        self.requests.add((request, told))

    def give_back(self, key: str, entry: str) -> None:
        """Count a call no more; see `protocols.SharedWindows.give_back`."""
        self.requests.add((key, entry))

    # -- the store's thread

    def settle(self) -> None:
        """Answer all requests, in their order; see `Requests.settle` for what it raises."""
        self.requests.settle(self._answered)

    def _answered(
        self, connection: Connection, version: int, some: Sequence[Asked]
    ) -> Callable[[], object]:
        """Answer requests in a transaction; return what tells everybody after its commit."""
        answers: list[tuple[Told, WindowAnswer]] = []
        now = self._now(connection)
        # Not before that: a function that begins by this clock must not begin too early.
        since = self._clock.monotonic()
        self._clean(connection, now)
        for asked, more in some:
            if isinstance(asked, WindowRequest):
                assert callable(more)
                answers.append((more, _answer(connection, asked, now)))
            else:
                for line in (asked, _line_of(asked)):
                    connection.execute(_DROP, {"of_key": line, "of_entry": more})

        def tell() -> None:
            for told, answer in answers:
                told(replace(answer, age=self._clock.monotonic() - since))

        return tell

    def _now(self, connection: Connection) -> int:
        """Return the microsecond by the clock that all processes share."""
        dialect, boot = self._site.database.dialect, processes.boot()
        if boot is None or not dialect.is_local:
            return dialect.microsecond(connection, self._clock)
        since = int(self._clock.monotonic() * _MICRO)
        anchor = {"of_key": "", "of_entry": boot}
        apart: int | None = connection.execute(_ANCHOR, anchor).scalar()
        if apart is None:
            apart = dialect.microsecond(connection, self._clock) - since
            _enter(connection, "", boot, apart, _NEVER)
        return since + apart

    def _clean(self, connection: Connection, now: int) -> None:
        """Remove the calls that have left their windows, now and then."""
        if self._clock.monotonic() >= self._cleaned + _CLEANING:
            connection.execute(_CLEAN, {"now": now})
            self._cleaned = self._clock.monotonic()


def _answer(connection: Connection, request: WindowRequest, now: int) -> WindowAnswer:
    """Count a call, if it may wait as long as it has to, or give it a place in the line."""
    key, line = {"of_key": request.key}, _line_of(request.key)
    connection.execute(_CLEAN_KEY, {**key, "now": now})
    connection.execute(_DROP, {**key, "of_entry": request.entry})
    length = math.ceil(request.length * _MICRO)
    soonest = at = now + math.ceil(request.ahead * _MICRO)
    asked = {"of_line": line, "number": request.number or _NEVER, "now": now}
    slot = connection.execute(
        _SLOT, {**key, **asked, "rate": request.rate, "back": request.rate - 1}
    ).scalar()
    if slot is not None:
        at = max(at, slot + length)
    counted = at == soonest or (request.waits and at - now < request.within * _MICRO)
    number = request.number
    if number and not counted:
        # After a long outage calls may come in any order, and the turns of those ahead are wrong.
        many = connection.execute(_HOW_MANY, {**asked, "rate": _MANY}).scalar_one()
        at = max(at, now + many // request.rate * length)
    if number or (request.waits and not counted):
        # Also without a number: its process may have ended before it was told.
        connection.execute(_DROP, {"of_key": line, "of_entry": request.place})
    if counted:
        _enter(connection, request.key, request.entry, at, at + length)
    elif request.waits:
        if not number:
            # Later than all that stand there, also if one transaction answers several.
            last = connection.execute(_LAST, {"of_line": line}).scalar()
            number = now if last is None else max(now, last + 1)
        _enter(connection, line, request.place, number, at + _GRACE)
    return WindowAnswer(counted, (at - now) / _MICRO, number=number)


def _enter(connection: Connection, line: str, entry: str, at: int, until: int) -> None:
    row = {"line": line, "entry": entry, "counted_at": at, "leaves_at": until}
    connection.execute(_COUNT, row)


def _line_of(key: str) -> str:
    """Return under what the calls are kept that stand in the line of a window."""
    # No key has it, since they are printable.
    return f"\n{key}"
