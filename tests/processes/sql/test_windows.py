"""What only a database has of the contract of windows, which is in `contracts`."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from framework._threads.watch import processes
from framework.protocols import WindowAnswer, WindowRequest
from framework.stores.sql._tables.schema import WINDOWS
from tests.processes.sql.siblings import START, Peer, peers

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


def test_old_calls_are_removed(sqlite_url: str) -> None:
    """Calls that have left their windows are deleted, also of keys that nobody uses any more."""
    with peers(sqlite_url, 1) as (one,):
        reserve(one, "a", key="x")
        reserve(one, "b")
        one.clock.pass_time(61.0)
        reserve(one, "c")

        assert (times(one, "x"), times(one)) == ([], [61.0])


def test_wall_clocks_are_set(sqlite_url: str) -> None:
    """Whatever wall clocks are set to, there are never too many calls, and none waits longer."""
    with peers(sqlite_url) as (one, two):
        reserve(one, "a")
        two.clock.wall += 3_600.0
        reserve(two, "b")
        one.clock.wall -= 3_600.0
        answers = [reserve(one, "c"), reserve(two, "d")]
        two.clock.now += 61.0
        later = reserve(two, "e")

    assert answers == [WindowAnswer(True, 10.0)] * 2
    assert later == WindowAnswer(True, 0.0)


def test_another_start_of_the_machine(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window goes on when the machine restarts, by the wall clock that it has then."""
    with peers(sqlite_url) as (one, two):
        reserve(one, "a", 1)
        monkeypatch.setattr(processes, "boot", lambda: "another")
        two.clock.now, two.clock.wall = 5.0, two.clock.wall + 4.0

        assert reserve(two, "b", 1) == WindowAnswer(True, 6.0)


def test_the_server_has_the_time(postgres_url: str) -> None:
    """With PostgreSQL its own clock counts, whatever the clocks of the processes say."""
    with peers(postgres_url) as (one, two):
        two.clock.pass_time(-3_600.0)
        first = reserve(one, "a", 1, waits=False)
        second = reserve(two, "b", 1, waits=False)

    assert first == WindowAnswer(True, 0.0)
    assert not second.counted
    assert 0.0 < second.wait <= 10.0
