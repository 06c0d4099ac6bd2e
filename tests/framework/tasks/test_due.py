"""When schedules are due: intervals, times of day, cron expressions, and changes of the clock."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from framework._records.due import (
    Cron,
    Daily,
    DueTimes,
    Every,
    Once,
    interval,
    recent,
    time_or_moment,
    zone,
)
from tests.framework.drawn import explored
from tests.framework.refusing import told_by

BERLIN = ZoneInfo("Europe/Berlin")
CHANGES = {
    "Europe/Berlin": ("2026-03-28", "2026-10-24"),
    "America/New_York": ("2026-03-07", "2026-10-31"),
    "America/Havana": ("2026-03-07", "2026-10-31"),  # at midnight
    "Australia/Lord_Howe": ("2026-04-03", "2026-10-02"),  # by half an hour
    "Pacific/Chatham": ("2026-04-03", "2026-09-25"),  # 12:45 ahead of UTC
    "Antarctica/Troll": ("2026-03-28", "2026-10-24"),  # by two hours
    "Africa/Casablanca": ("2026-02-13", "2026-03-20"),
    "Asia/Kathmandu": ("2026-01-01",),  # 5:45 ahead, and never changed
    "Pacific/Apia": ("2011-12-29",),  # without the 30th of December
}
EXPRESSIONS = (
    "*/15 * * * *",
    "*/15 1 * * *",
    "*/15 2 * * *",
    "*/15 3 * * *",
    "7 * * * *",
    "5 */2 * * *",
    "0 3 * * *",
    "30 2 * * *",
    "30 1 * * *",
    "0 0 * * *",
    "15,45 1,2,3 * * *",
    "0 3 * * SUN",
)


def stamp(text: str, where: tzinfo = UTC, fold: int = 0) -> float:
    """Return a time of a zone in seconds since the epoch."""
    return datetime.fromisoformat(text).replace(tzinfo=where, fold=fold).timestamp()


def shown(times: DueTimes, start: str, count: int, where: tzinfo = UTC) -> list[str]:
    """Return the next due times as a clock of the zone shows them, with the offset."""
    found: list[str] = []
    due = times.after(stamp(start, where))
    while due is not None and len(found) < count:
        local = datetime.fromtimestamp(due, where)
        found.append(f"{local:%d %H:%M %z}")
        due = times.after(due)
    return found


def oracle(expression: str, minutes: list[tuple[float, datetime]]) -> list[float]:
    """Return the due times by looking at a clock on the wall each minute, as cron does.

    Args:
        expression: The cron expression.
        minutes: Each minute, in seconds since the epoch and as the clock shows it.
    """
    wanted = CronSim(expression, datetime(2000, 1, 1))  # noqa: DTZ001  # without a zone

    def matches(local: datetime) -> bool:
        return (
            local.minute in wanted.minutes
            and local.hour in wanted.hours
            and local.month in wanted.months
            and wanted.match_day(local.date())
        )

    pattern = any(field.startswith("*") for field in expression.split()[:2])
    found: list[float] = []
    latest = minutes[0][1] - timedelta(minutes=1)
    for now, local in minutes:
        # Of fixed times: all that the clock has reached, or skipped, since it was this far.
        new = [local] if pattern else []
        while not pattern and latest < local:
            latest += timedelta(minutes=1)
            new.append(latest)
        if any(map(matches, new)):
            found.append(now)
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_cron_agrees_with_a_clock_on_the_wall(name: str) -> None:
    """Around each change of the clock, an expression is due when cron would run it."""
    where = ZoneInfo(name)
    for day in CHANGES[name]:
        start = stamp(day)
        stamps = [start + 60 * number for number in range(3 * 24 * 60)]
        minutes = [(one, datetime.fromtimestamp(one, where).replace(tzinfo=None)) for one in stamps]
        for expression in EXPRESSIONS:
            expected = oracle(expression, minutes)
            times, due, found = Cron(expression, where), start - 1, []
            for _ in expected:
                due = times.after(due) or math.inf
                found.append(due)
            assert found == expected, (day, expression)


def test_each_minute_follows_the_last() -> None:
    """While the clock is put back, the minute after any moment is the next one that comes."""
    times, start = Cron("* * * * *", BERLIN), stamp("2026-10-24T23:00")
    for minute in range(250):
        for offset in (0.0, 0.5, 59.0):
            assert times.after(start + 60 * minute + offset) == start + 60 * (minute + 1)


def test_a_time_that_is_skipped() -> None:
    """A time of day that the clock skips is due when the clock is put forward, once."""
    expected = {
        "0 3 * * *": ["28 03:00 +0100", "29 03:00 +0200", "30 03:00 +0200"],
        "30 2 * * *": ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"],
        "0,30 2 * * *": ["28 02:00 +0100", "28 02:30 +0100", "29 03:00 +0200", "30 02:00 +0200"],
    }
    assert {
        expression: shown(Cron(expression, BERLIN), "2026-03-28", len(times), BERLIN)
        for expression, times in expected.items()
    } == expected


def test_a_time_that_comes_twice() -> None:
    """A time of day that comes twice, as the clock is put back, is due the first time."""
    expected = {
        "0 3 * * *": ["24 03:00 +0200", "25 03:00 +0100", "26 03:00 +0100"],
        "30 2 * * *": ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"],
    }
    assert {
        expression: shown(Cron(expression, BERLIN), "2026-10-24", len(times), BERLIN)
        for expression, times in expected.items()
    } == expected


def test_a_pattern_follows_the_clock() -> None:
    """A pattern is due twice in an hour that comes twice, and not in one that is skipped."""
    half_hours = Cron("*/30 * * * *", BERLIN)
    assert shown(half_hours, "2026-10-25T01:45", 5, BERLIN) == [
        "25 02:00 +0200",
        "25 02:30 +0200",
        "25 02:00 +0100",
        "25 02:30 +0100",
        "25 03:00 +0100",
    ]
    assert shown(half_hours, "2026-03-29T01:15", 2, BERLIN) == ["29 01:30 +0100", "29 03:00 +0200"]


def test_the_second_half_of_a_doubled_hour() -> None:
    """After the first 02:30 of two, what is due each day at 02:30 is due on the next day."""
    first = stamp("2026-10-25T02:30", BERLIN)
    for later in (first, first + 1800, first + 3600):
        assert Daily(time(2, 30), BERLIN).after(later) == stamp("2026-10-26T02:30", BERLIN)


@explored
@given(
    st.sampled_from(sorted(CHANGES)),
    st.times(),
    st.datetimes(datetime(1995, 1, 1), datetime(2037, 1, 1)),  # noqa: DTZ001
)
def test_a_time_of_day_is_as_cron(name: str, at: time, start: datetime) -> None:
    """A time of day is due when its cron expression is."""
    where, begun = ZoneInfo(name), start.replace(tzinfo=UTC).timestamp()
    daily, cron = (
        Daily(time(at.hour, at.minute), where),
        Cron(f"{at.minute} {at.hour} * * *", where),
    )
    assert daily.after(begun) == cron.after(begun)


def test_a_time_of_day_with_seconds() -> None:
    """A time of day may have seconds."""
    assert Daily(time(3, 0, 30), UTC).after(stamp("2026-01-01T03:00:30")) == stamp(
        "2026-01-02T03:00:30"
    )


def test_once() -> None:
    """A moment is due once."""
    moment = datetime(2026, 3, 1, 3, tzinfo=BERLIN)
    times = Once(moment)
    assert times.after(moment.timestamp() - 1) == moment.timestamp()
    assert times.after(moment.timestamp()) is None


@explored
@given(st.floats(1e-3, 1e6), st.floats(0, 4e9))
def test_an_interval_is_due_at_its_multiples(seconds: float, start: float) -> None:
    """The next due time is after the given one, by one interval at the most, and a multiple."""
    due = Every(seconds).after(start)
    assert start < due
    assert due == round(due / seconds) * seconds
    assert due - start <= seconds * (1 + 1e-9) + 1e-6


def test_an_interval_from_a_start() -> None:
    """An interval may be counted from any moment."""
    assert [Every(10, 3).after(at) for at in (0, 3, 12.9, 13)] == [3, 13, 13, 23]


@explored
@given(st.floats(0.5, 5_000), st.integers(0, 2_000), st.integers(1, 100))
def test_recent(seconds: float, back: int, most: int) -> None:
    """The latest due times of a span are found, however long it is."""
    times, until = Every(seconds), 1_800_000_000.0
    after = until - back * seconds
    found = recent(times, after, until, most)
    every = []
    due = times.after(after)
    while due <= until:
        every.append(due)
        due = times.after(due)
    assert found == every[-most:]


def test_recent_after_years() -> None:
    """Looking back over years reads no more due times than are asked for, and a few."""

    class Counting(Every):
        read = 0

        def after(self, stamp: float) -> float:
            self.read += 1
            return super().after(stamp)

    times = Counting(60)
    assert recent(times, 0.0, 1_800_000_000.0, 3) == [1_799_999_880.0, 1_799_999_940.0, 1.8e9]
    assert times.read < 30


def test_what_is_shown() -> None:
    """Due times say what they are."""
    made: list[DueTimes] = [
        Every(90),
        Daily(time(3), UTC),
        Cron(" 0  3 * * mon ", BERLIN),
        Once(datetime(2026, 3, 1, tzinfo=UTC)),
    ]
    assert [one.text for one in made] == [
        "every 90 s",
        "daily at 03:00:00 (UTC)",
        "cron 0 3 * * mon (Europe/Berlin)",
        "once at 2026-03-01T00:00:00+00:00",
    ]


# -- what is refused

FIELDS = (
    "cron must be five fields, minute, hour, day of month, month and day of week, like "
    "'0 3 * * *' for 03:00 each day, not "
)


def test_no_expression() -> None:
    """What is no cron expression, or is never due, is refused with the reason."""
    reasons = {
        "0 3 * *": "it has 4",
        "0 0 3 * * *": "it has 6",
        "@daily": "it has 1",
        "": "it has 0",
        "61 * * * *": "Bad minute",
        "0 24 * * *": "Bad hour",
        "0 0 30 2 *": "Bad day-of-month",
        "0 0 * * funday": "Bad day-of-week",
    }
    told = {expression: told_by(Cron, expression, UTC) for expression in reasons}
    assert told == {
        expression: (ValueError, f"{FIELDS}{expression!r}: {why}")
        for expression, why in reasons.items()
    }


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library that reads cron expressions, the error has the command."""
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(
        ImportError, match=r"^cron expressions need cronsim: install the extra 'cron' of asy"
    ):
        Cron("0 3 * * *", UTC)


REFUSED: list[tuple[Callable[[str, Any], Any], Any, type[Exception], str]] = [
        (interval, timedelta(0), ValueError, ("x must be a number above 0 or a timedelta, not "
         "datetime.timedelta(0)")),
        (interval, "0 3 * * *", TypeError, ("x must be a number above 0 or a timedelta, not "
         "'0 3 * * *'; for a cron expression use cron='0 3 * * *'")),
        (time_or_moment, "3:00", ValueError, "x must be a time of day like '03:00', not '3:00'"),
        (time_or_moment, "24:00", ValueError, "x must be a time of day like '03:00', not '24:00'"),
        (time_or_moment, 3, TypeError, ("x must be a time of day like '03:00', a datetime.time, or "
         "a datetime for a single run, not 3")),
        (time_or_moment, datetime(2026, 1, 1), ValueError,  # noqa: DTZ001  # the point
         "x must be a datetime with a time zone, not datetime.datetime(2026, 1, 1, 0, 0)"),
        (time_or_moment, time(3, tzinfo=UTC), ValueError, ("x must be a time without a time zone, "
         "which goes into tz, not datetime.time(3, 0, tzinfo=datetime.timezone.utc)")),
        (zone, "Europe/Berln", ValueError, ("x must be the name of a time zone, like "
         "'Europe/Berlin', not 'Europe/Berln'; did you mean 'Europe/Berlin'?")),
        (zone, "../etc/passwd", ValueError, ("x must be the name of a time zone, like "
         "'Europe/Berlin', not '../etc/passwd'")),
        (zone, "", ValueError, "x must be the name of a time zone, like 'Europe/Berlin', not ''"),
        (zone, 1, TypeError, ("x must be the name of a time zone, like 'Europe/Berlin', or a "
         "tzinfo, not 1")),
    ]  # fmt: skip


def test_no_time() -> None:
    """What is no interval, no time or no zone is refused, and the error says what is one."""
    told = [told_by(check, "x", value) for check, value, _, _ in REFUSED]
    assert told == [(error, message) for _, _, error, message in REFUSED]


def test_a_folder_of_zones() -> None:
    """The name of a folder of zones is refused, however the system says that it is one."""
    with pytest.raises(ValueError, match=r"^tz must be the name of a time zone, like .*'Europe'"):
        zone("tz", "Europe")


def test_a_system_without_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no zone is known, the error says how to install them."""
    monkeypatch.setattr("zoneinfo.available_timezones", set[str])
    with pytest.raises(
        ValueError, match=r"^tz must be .*'Mars/North'; this system knows no time zones: pip in"
    ):
        zone("tz", "Mars/North")


def test_what_is_accepted() -> None:
    """Times and zones may be texts or objects."""
    assert interval("every", timedelta(minutes=5)) == 300
    assert time_or_moment("at", "03:00") == time_or_moment("at", time(3)) == time(3)
    assert time_or_moment("at", "23:59:59") == time(23, 59, 59)
    assert zone("tz", "Europe/Berlin") == zone("tz", BERLIN) == BERLIN
