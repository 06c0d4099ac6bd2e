"""The windows of throttles that all processes share.

A call is counted at the time of the call that used its slot before, plus the window, or now if
that is later. Its slot is that of the call which is as many calls back as the rate; so no
half-open interval of the window's length has more calls than that, also if calls are counted in
the future, or some are given back.

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
from framework.stores.sql._tables.schema import WINDOWS

Told: TypeAlias = Callable[[WindowAnswer], object]
Asked: TypeAlias = "tuple[WindowRequest, Told] | tuple[str, str]"
"""A request with whom to tell, or the key and the entry of a call that is given back."""

_MICRO: Final = 1_000_000
_NEVER: Final = 2**63 - 1
_CLEANING: Final = 60.0
"""Seconds between two removals of the calls that have left their windows, of all keys."""

_OF_KEY: Final = WINDOWS.c.line == bindparam("of_key")
_LEFT: Final = WINDOWS.c.leaves_at <= bindparam("now")
_DROP: Final = sa.delete(WINDOWS).where(_OF_KEY, WINDOWS.c.entry == bindparam("of_entry"))
_ANCHOR: Final = sa.select(WINDOWS.c.counted_at).where(
    _OF_KEY, WINDOWS.c.entry == bindparam("of_entry")
)
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
                answers.append((more, _counted(connection, asked, now)))
            else:
                connection.execute(_DROP, {"of_key": asked, "of_entry": more})

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
            row = {"line": "", "entry": boot, "counted_at": apart, "leaves_at": _NEVER}
            connection.execute(_COUNT, row)
        return since + apart

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
