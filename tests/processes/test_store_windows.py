"""Windows of throttles in a database: the calls of all processes are counted together."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import sqlalchemy as sa

from framework.protocols import WindowAnswer, WindowRequest
from framework.stores.sql._schema import WINDOWS
from tests.processes.siblings import START, Peer, peers

SECOND = 1_000_000


def reserve(
    peer: Peer,
    entry: str,
    rate: int = 2,
    *,
    key: str = "key",
    ahead: float = 0.0,
    waits: bool = True,
) -> WindowAnswer:
    """Let a process count a call in a window of ten seconds."""
    told: list[WindowAnswer] = []
    request = WindowRequest(key, entry, rate, 10.0, ahead, waits)
    peer.writer.windows.reserve(request, told.append)
    peer.writer.attempt(following=False)
    (answer,) = told
    return answer


def give_back(peer: Peer, entry: str) -> None:
    """Let a process give a call back."""
    peer.writer.windows.give_back("key", entry)
    peer.writer.attempt(following=False)


def times(peer: Peer, key: str = "key") -> list[float]:
    """Return when the calls of a key are counted, in seconds from the begin of a test."""
    query = sa.select(WINDOWS.c.counted_at).where(WINDOWS.c.line == key).order_by("counted_at")
    with peer.database.reading() as connection:
        return [at / SECOND - START for at in connection.execute(query).scalars()]


def test_processes_share_a_window(sqlite_url: str) -> None:
    """Calls of two processes use the same slots; one that may not wait is told for how long."""
    with peers(sqlite_url) as (one, two):
        assert reserve(one, "a") == WindowAnswer(True, 0.0)
        one.clock.pass_time(1.0)
        two.clock.pass_time(4.0)
        assert reserve(two, "b") == WindowAnswer(True, 0.0)
        assert reserve(one, "c", waits=False) == WindowAnswer(False, 9.0)
        assert times(one) == [0.0, 4.0]


def test_a_call_one_window_later_is_free(sqlite_url: str) -> None:
    """Exactly one window after the first call its slot is free, and not a microsecond before."""
    with peers(sqlite_url, 1) as (one,):
        reserve(one, "a", 1)
        one.clock.wall = START + 10.0 - 1e-6
        assert not reserve(one, "b", 1, waits=False).counted
        one.clock.wall = START + 10.0
        assert reserve(one, "b", 1, waits=False).counted


def test_calls_that_wait_come_in_order(sqlite_url: str) -> None:
    """Calls over the rate are counted in the future, in the order in which they came."""
    with peers(sqlite_url) as (one, two):
        waits = [
            reserve(peer, entry).wait for peer, entry in zip((one, two) * 3, "abcdef", strict=True)
        ]

        assert waits == [0.0, 0.0, 10.0, 10.0, 20.0, 20.0]


def test_a_call_that_is_given_back_makes_room(sqlite_url: str) -> None:
    """The next call may be counted as if the one that was given back had never come."""
    with peers(sqlite_url, 1) as (one,):
        for entry in "abcd":
            reserve(one, entry)
        give_back(one, "c")

        assert reserve(one, "e") == WindowAnswer(True, 10.0)
        assert times(one) == [0.0, 0.0, 10.0, 10.0]


def test_a_call_is_counted_anew(sqlite_url: str) -> None:
    """A request with the same entry takes the place of the first, a little in the future."""
    with peers(sqlite_url, 1) as (one,):
        reserve(one, "a")
        assert reserve(one, "a", ahead=0.5) == WindowAnswer(True, 0.5)
        assert times(one) == [0.5]


def test_each_key_has_its_own_window(sqlite_url: str) -> None:
    """Calls with other keys are counted separately."""
    with peers(sqlite_url, 1) as (one,):
        answers = [reserve(one, "a", 1, key=key, waits=False) for key in ("x", "y")]

        assert answers == [WindowAnswer(True, 0.0)] * 2


def test_old_calls_are_removed(sqlite_url: str) -> None:
    """Calls that have left their windows are deleted, also of keys that nobody uses any more."""
    with peers(sqlite_url, 1) as (one,):
        reserve(one, "a", key="x")
        reserve(one, "b")
        one.clock.pass_time(61.0)
        reserve(one, "c")

        assert (times(one, "x"), times(one)) == ([], [61.0])


@pytest.mark.parametrize("seed", range(5))
def test_no_interval_has_too_many(sqlite_url: str, seed: int) -> None:
    """Whoever calls, waits or gives back when, no half-open window has more calls than the rate."""
    rng, rate = random.Random(seed), 3
    counted: dict[str, float] = {}
    with peers(sqlite_url) as both:
        for number in range(120):
            one = rng.choice(both)
            seconds = rng.choice((0.0, 0.5, 3.0, 10.0))
            for peer in both:
                peer.clock.pass_time(seconds)
            now, entry = one.clock.wall - START, str(number)
            answer = reserve(one, entry, rate, waits=rng.random() < 0.7)
            if answer.counted:
                counted[entry] = now + answer.wait
            later = [entry for entry, at in counted.items() if at > now]
            if later and rng.random() < 0.3:
                gone = rng.choice(later)
                give_back(one, gone)
                del counted[gone]
    ordered = sorted(counted.values())
    gaps = zip(ordered, ordered[rate:], strict=False)

    assert all(later - first >= 10.0 - 1e-6 for first, later in gaps)
    assert any(first == later for first, later in pairwise(ordered))


def test_the_server_has_the_time(postgres_url: str) -> None:
    """With PostgreSQL its own clock counts, whatever the clocks of the processes say."""
    with peers(postgres_url) as (one, two):
        two.clock.pass_time(-3_600.0)
        first = reserve(one, "a", 1, waits=False)
        second = reserve(two, "b", 1, waits=False)

    assert first == WindowAnswer(True, 0.0)
    assert not second.counted
    assert 0.0 < second.wait <= 10.0
