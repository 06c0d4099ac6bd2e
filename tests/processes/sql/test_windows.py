"""What only a database has of the contract of windows, which is in `contracts`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from framework._running.waits.shared_windows import SharedPolicies
from framework._threads.waiters import ThreadSleeper
from framework._threads.watch import processes
from framework.protocols import WindowAnswer, WindowRequest
from framework.stores.sql._tables.schema import WINDOWS
from tests.framework.policies import throttle_policy
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


def stand(peer: Peer, place: str, number: int = 0) -> WindowAnswer:
    """Let a process count a call if its turn is less than half a second away."""
    told: list[WindowAnswer] = []
    entry = f"{place} at {peer.clock.now}"
    request = WindowRequest("key", entry, 2, 10.0, 0.0, True, 0.5, place, number)
    peer.writer.windows.reserve(request, told.append)
    peer.writer.attempt(following=False)
    (answer,) = told
    return answer


def test_the_line_of_a_window(sqlite_url: str) -> None:
    """Who stands in the line is counted in its order, after those ahead, and before all others."""
    with peers(sqlite_url) as (one, two):
        answers = {place: stand(one, place) for place in "abcdef"}
        assert [answer.wait for answer in answers.values()] == [0, 0, 10, 10, 20, 20]
        assert times(one) == [0.0, 0.0], "nobody is counted long before"
        assert reserve(two, "refused", waits=False).wait == 30.0
        c, d, e, _ = (answers[place].number for place in "cdef")
        for peer in (one, two):
            peer.clock.pass_time(9.9)
        # Those of the first turn come in the other order, and from another process.
        answered = [stand(two, *who) for who in (("d", d), ("c", c))]
        assert [(its.counted, its.number) for its in answered] == [(True, d), (True, c)]
        assert [its.wait for its in answered] == [pytest.approx(0.1)] * 2
        # Who comes before its turn has come is told the same, and who has lost its number may come.
        assert stand(one, "e", e).wait == pytest.approx(10.1)
        assert stand(one, "e").number > e


def test_who_does_not_come_at_its_turn(sqlite_url: str) -> None:
    """Its place is free a moment later, and when it comes after all, it is before those behind."""
    with peers(sqlite_url, 1) as (one,):
        numbers = {place: stand(one, place).number for place in "abcdefgh"}
        one.clock.pass_time(21.5)
        # 1 Nobody has come to the turns at 10 s and 20 s. 2 They come, the last one first.
        late = [stand(one, place, numbers[place]).wait for place in "fced"]
        assert late == [0.0, 0.0, 10.0, 10.0]
        one.clock.pass_time(8.4)
        # 3 Those whose turns were at 30 s come in time, and are behind them.
        assert [stand(one, *who).wait for who in (("g", numbers["g"]), ("h", numbers["h"]))] == [
            pytest.approx(11.6)
        ] * 2


def test_all_come_late_and_the_last_first(sqlite_url: str) -> None:
    """After an outage each call comes back a few times at most, in whichever order they come."""
    with peers(sqlite_url, 1) as (one,):
        waiting = [(f"{at}", stand(one, f"{at}").number) for at in range(62)][2:]
        one.clock.pass_time(1_000.0)
        came = 0
        due = dict.fromkeys(reversed(waiting), one.clock.now)
        while due:
            one.clock.pass_time(max(0.0, min(due.values()) - one.clock.now))
            for who in [who for who, at in due.items() if at <= one.clock.now]:
                came += 1
                answer = stand(one, *who)
                del due[who]
                if not answer.counted:
                    due[who] = one.clock.now + answer.wait - 0.1
        assert came <= 4 * len(waiting)
        began = times(one)[-1] - 1_000.0
        assert began == pytest.approx(290.0, abs=1.0)


class Caller:
    """A waiting call of a process, which takes a step when the test says so.

    Its window has room for one call in ten seconds.

    Args:
        peer: Its process.
        commits: How many seconds each answer takes once it is counted; 0 for those after them.

    Attributes:
        began: When its function begins, in seconds from the begin of a test.
        asked: How often it was counted.
    """

    def __init__(self, peer: Peer, *commits: float) -> None:
        ledger = SimpleNamespace(clock=peer.clock, sinks=[], count=lambda _: None)
        endings: Any = SimpleNamespace(ledger=ledger)
        policies = SharedPolicies(endings, random.Random(0), self)
        policy = throttle_policy("key", rate_limit=1, time_window=10.0, when_limited="wait")
        self._peer, self._commits = peer, list(commits)
        self._steps = policies._reserve(policy, None, ThreadSleeper(peer.clock))
        self.began: float | None = None
        self.asked = 0
        next(self._steps)

    def reserve(self, request: WindowRequest, told: Callable[[WindowAnswer], object]) -> None:
        """Count the call, and take long to commit that."""
        self.asked += 1

        def tell(answer: WindowAnswer) -> None:
            took = self._commits.pop(0) if self._commits else 0.0
            self._peer.clock.pass_time(took)
            told(replace(answer, age=answer.age + took))

        self._peer.writer.windows.reserve(request, tell)

    def give_back(self, key: str, entry: str) -> None:
        """Count it no more."""
        self._peer.writer.windows.give_back(key, entry)

    def go_on(self) -> None:
        """Let the process answer, and the call go on as far as it may at this moment."""
        self._peer.writer.attempt(following=False)
        try:
            next(self._steps)
        except StopIteration:
            self.began = self._peer.clock.now - 100.0


ONE_CLOCK = pytest.mark.skipif(
    processes.boot() is None, reason="no clock of the machine that its processes share"
)


@ONE_CLOCK
def test_who_stood_still_is_counted_anew(sqlite_url: str) -> None:
    """A function never begins long after its call was counted: others have filled the window."""
    with peers(sqlite_url, 2) as (one, two):
        calls = [Caller(one), Caller(one), Caller(two)]
        for call in calls:
            call.go_on()
        # 1 The second is counted 10 s later, and its process stands still until after that.
        # 2 The third is counted 20 s later. 3 It begins; so would the second.
        for seconds in (20.1, 0.0, 10.05, 0.0):
            one.clock.pass_time(seconds)
            two.clock.pass_time(seconds)
            for call in calls[:0:-1]:
                if call.began is None:
                    call.go_on()
        assert [call.began for call in calls] == [0.0, pytest.approx(30.15), pytest.approx(20.1)]


def test_an_answer_comes_late(sqlite_url: str) -> None:
    """A call begins when it is counted, however long its answer and the commit have taken."""
    with peers(sqlite_url, 1) as (one,):
        call = Caller(one)
        one.clock.pass_time(60.0)
        call.go_on()
        assert (call.began, call.asked) == (60.0, 1)

        one.clock.pass_time(20.0)
        call = Caller(one, 0.3, 0.4)
        call.go_on()
        call.go_on()
        # Counted ahead by twice what the first commit took: the second one took less.
        assert (call.began, call.asked) == (None, 2)
        one.clock.pass_time(0.21)
        call.go_on()
        assert call.began == pytest.approx(80.91)
        assert call.asked == 2


def test_old_calls_are_removed(sqlite_url: str) -> None:
    """Calls that have left their windows are deleted, also of keys that nobody uses any more."""
    with peers(sqlite_url, 1) as (one,):
        reserve(one, "a", key="x")
        reserve(one, "b")
        one.clock.pass_time(61.0)
        reserve(one, "c")

        assert (times(one, "x"), times(one)) == ([], [61.0])


@ONE_CLOCK
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
