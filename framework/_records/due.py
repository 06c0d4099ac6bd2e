"""When a schedule is due: at an interval, at times of day, once, or by a cron expression.

Times are seconds: since the epoch, or for an interval since any other moment. Time zones and
their changes of the clock are handled here, for cron expressions as well: the library that reads
these skips due times, or repeats one without end, where a clock is changed by half an hour or
not at a full hour.
"""

from __future__ import annotations

import math
import re
import zoneinfo
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Final, Protocol

from framework._records import checks

_LOOK_AHEAD: Final = timedelta(hours=3)
"""Longer than any clock is put back at once: by two hours at Troll, else by one."""

_DAY: Final = timedelta(days=1)
_FIELDS: Final = 5
_TIME_OF_DAY: Final = re.compile(r"\d\d:\d\d(:\d\d)?", re.ASCII)
_ANY_TIME: Final = datetime(2000, 1, 1)  # noqa: DTZ001  # cron expressions have no zone

_FIRST_SPAN: Final = 1.0
_GROWTH: Final = 4.0


class DueTimes(Protocol):
    """The times at which something is due.

    Attributes:
        text: What they are, for people: ``every 60 s``, ``cron 0 3 * * * (UTC)``.
        zone: The time zone that they are meant in.
    """

    text: str
    zone: tzinfo

    def after(self, stamp: float) -> float | None:
        """Return the first due time after *stamp*; None if there is none."""
        ...


def recent(times: DueTimes, after: float, until: float, most: int) -> list[float]:
    """Return the latest due times after *after* and up to *until*, *most* at most, in order.

    It costs what it returns, however much time has passed: it looks at longer and longer spans
    before *until*.
    """
    span = _FIRST_SPAN
    while True:
        begin = max(after, until - span)
        found, due = [], times.after(begin)
        while due is not None and due <= until:
            found.append(due)
            due = times.after(due)
        if begin <= after or len(found) >= most:
            return found[-most:]
        span *= _GROWTH


class Every:
    """Multiples of an interval, counted from a moment.

    Args:
        seconds: The interval, above 0.
        origin: The moment; 0 is the epoch, so that all processes have the same times.
    """

    def __init__(self, seconds: float, origin: float = 0.0) -> None:
        self.seconds = seconds
        self.origin = origin
        self.zone: tzinfo = UTC
        self.text = f"every {seconds:g} s"

    def after(self, stamp: float) -> float:
        """Return the first due time after *stamp*."""
        number = math.floor((stamp - self.origin) / self.seconds) + 1
        # The division may round to the next whole number.
        while (due := self.origin + number * self.seconds) <= stamp:
            number += 1
        return due


class Once:
    """One moment.

    Args:
        moment: The moment, with a time zone.
    """

    def __init__(self, moment: datetime) -> None:
        self._stamp = moment.timestamp()
        assert moment.tzinfo is not None
        self.zone: tzinfo = moment.tzinfo
        self.text = f"once at {moment.isoformat()}"

    def after(self, stamp: float) -> float | None:
        """Return the moment, unless it has passed by *stamp*."""
        return self._stamp if self._stamp > stamp else None


class _WallTimes(ABC):
    """Times that a clock on the wall of some place shows.

    Where that clock is changed, it does what Debian's cron does. A time of day that is skipped is
    due at the moment of the change, and one that comes twice is due the first time only. Times of
    a pattern (``*/15``) just follow the clock: nothing is due in an hour that is skipped, and an
    hour that comes twice counts twice.

    Args:
        zone: The place.
        text: What the times are, for people.
        pattern: Whether they are those of a pattern.
    """

    def __init__(self, zone: tzinfo, text: str, *, pattern: bool) -> None:
        self.zone = zone
        self.text = text
        self._pattern = pattern

    @abstractmethod
    def _shown_after(self, shown: datetime) -> Iterable[datetime]:
        """Return the times after *shown*, both without a time zone, in order."""

    def after(self, stamp: float) -> float | None:
        """Return the first due time after *stamp*."""
        local = datetime.fromtimestamp(stamp, UTC).astimezone(self.zone)
        # If the clock is put back soon, times that it has shown are still to come.
        back = _offset(local) - _offset((local.astimezone(UTC) + _LOOK_AHEAD).astimezone(self.zone))
        best: float | None = None
        for shown in self._shown_after(local.replace(tzinfo=None) - max(back, timedelta())):
            stamps = self._stamps(shown)
            if best is not None and stamps and stamps[0] >= best:
                break
            for one in stamps:
                if one > stamp and (best is None or one < best):
                    best = one
            # The first stamps of later times are not earlier.
            if best is not None and stamps[0] == best:
                break
        return best

    def _stamps(self, shown: datetime) -> list[float]:
        """Return when the clock shows a time and it is due, in order."""
        first = shown.replace(tzinfo=self.zone, fold=0)
        second = shown.replace(tzinfo=self.zone, fold=1)
        if first.astimezone(UTC).astimezone(self.zone).replace(tzinfo=None) != shown:
            return [] if self._pattern else [self._change(second, first)]
        if not self._pattern or _offset(first) == _offset(second):
            return [first.timestamp()]
        return [first.timestamp(), second.timestamp()]

    def _change(self, before: datetime, after: datetime) -> float:
        """Return the second of the change between two moments."""
        low, high = int(before.timestamp()), int(after.timestamp())

        def offset(second: int) -> timedelta:
            return _offset(datetime.fromtimestamp(second, UTC).astimezone(self.zone))

        old = offset(low)
        seconds = range(low, high)
        return float(low + bisect_left(seconds, True, key=lambda one: offset(one) != old))


def _offset(moment: datetime) -> timedelta:
    offset = moment.utcoffset()
    assert offset is not None
    return offset


class Daily(_WallTimes):
    """A time of day.

    Args:
        at: The time, without a time zone.
        zone: Where.
    """

    def __init__(self, at: time, zone: tzinfo) -> None:
        super().__init__(zone, f"daily at {at.isoformat()} ({zone})", pattern=False)
        self._at = at

    def _shown_after(self, shown: datetime) -> Iterator[datetime]:
        day = shown.date()
        while True:
            found = datetime.combine(day, self._at)
            if found > shown:
                yield found
            day += _DAY


class Cron(_WallTimes):
    """A cron expression.

    Args:
        expression: Its five fields.
        zone: Where.

    Raises:
        ImportError: If the library that reads it is not installed.
        ValueError: If it is not an expression.
    """

    def __init__(self, expression: str, zone: tzinfo) -> None:
        try:
            from cronsim import CronSim, CronSimError
        except ModuleNotFoundError as error:
            raise ImportError(
                "cron expressions need cronsim: install the extra 'cron' of asyncframe; every= and "
                "at= work without it"
            ) from error
        fields = expression.split()
        if len(fields) != _FIELDS:
            raise _bad_cron(expression, f"it has {len(fields)}")
        pattern = fields[0].startswith("*") or fields[1].startswith("*")
        self._expression = " ".join(fields)
        self._matches = CronSim
        super().__init__(zone, f"cron {self._expression} ({zone})", pattern=pattern)
        try:
            self._shown_after(_ANY_TIME)
        except CronSimError as error:
            raise _bad_cron(expression, str(error)) from None

    def _shown_after(self, shown: datetime) -> Iterable[datetime]:
        return self._matches(self._expression, shown)


def _bad_cron(given: str, why: str) -> ValueError:
    return ValueError(
        "cron must be five fields, minute, hour, day of month, month and day of week, like "
        f"'0 3 * * *' for 03:00 each day, not {checks.show(given)}: {why}"
    )


# -- checks of parameters, as in `checks`


def interval(name: str, value: object) -> float:
    """Return an interval in seconds, above 0, if it is a number of them or a timedelta.

    Raises:
        TypeError: If *value* is neither.
        ValueError: If it is out of range.
    """
    try:
        return checks.seconds(name, value, above=0)
    except TypeError as error:
        if not isinstance(value, str):
            raise
        raise TypeError(f"{error}; for a cron expression use cron={value!r}") from None


def time_or_moment(name: str, value: object) -> time | datetime:
    """Return a time of day, without a zone, or a moment with one.

    Raises:
        TypeError: If *value* is neither of them, nor a text such as "03:00".
        ValueError: If it is no time of day, or has a zone where none may be, or none where one
            must be.
    """
    found = value
    if isinstance(value, str):
        try:
            found = time.fromisoformat(value) if _TIME_OF_DAY.fullmatch(value) else None
        except ValueError:
            found = None
        if found is None:
            raise ValueError(f"{name} must be a time of day like '03:00', not {checks.show(value)}")
    if isinstance(found, datetime):
        if found.utcoffset() is None:
            raise ValueError(
                f"{name} must be a datetime with a time zone, not {checks.show(value)}"
            )
        return found
    if not isinstance(found, time):
        raise TypeError(
            f"{name} must be a time of day like '03:00', a datetime.time, or a datetime for a "
            f"single run, not {checks.show(value)}"
        )
    if found.tzinfo is not None:
        raise ValueError(
            f"{name} must be a time without a time zone, which goes into tz, not "
            f"{checks.show(value)}"
        )
    return found


def zone(name: str, value: object) -> tzinfo:
    """Return a time zone, given as such or by its name.

    Raises:
        TypeError: If *value* is neither.
        ValueError: If there is no zone of this name.
    """
    if isinstance(value, tzinfo):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"{name} must be the name of a time zone, like 'Europe/Berlin', or a tzinfo, not "
            f"{checks.show(value)}"
        )
    try:
        return zoneinfo.ZoneInfo(value)
    # What a name causes that is none: not found, outside the folder, a folder, not a zone's file.
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{name} must be the name of a time zone, like 'Europe/Berlin', not "
            f"{checks.show(value)}{_about_zones(value)}"
        ) from None


def _about_zones(given: str) -> str:
    known = zoneinfo.available_timezones()
    if not known:
        return "; this system knows no time zones: pip install tzdata"
    return checks.nearest(given, known)
