"""Leases, deliveries and windows as Redis keeps them, step by step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest

from framework import TaskCancelledError
from framework._threads.clock import SystemClock
from framework._threads.watch import processes
from framework._threads.watch.processes import holder_here, holder_of, is_dead
from framework.engines.celery._messages import Message
from framework.engines.celery._redis.reports import record_of
from framework.engines.celery._redis.state import ASKED, State
from framework.engines.celery._redis.windows import Windows
from tests.patience import PATIENCE

ELSEWHERE = "another-machine@1.1|1|1"
"""A holder that nobody here can look after."""


@pytest.fixture
def state(redis_url: str) -> Iterator[State]:
    """Tasks of an empty namespace."""
    kept = State(redis_url, "test", 60.0)
    yield kept
    kept.client.close()


@pytest.fixture
def dead() -> str:
    """A holder on this machine whose process has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        holder = holder_of(process.pid)
        assert not is_dead(holder)
    return holder


def message(seq: int = 0, task_id: str = "t") -> Message:
    """Return one delivery of a task."""
    return Message(task_id, "f", "f", "", "[[],{}]", 1e9, 9.0, 9.0, seq=seq)


def facts(state: State) -> dict[str, str]:
    """Return what Redis says of the task."""
    return state.fetch(["t"])["t"]


def test_first_delivery(state: State) -> None:
    """The first worker that asks gets the lease and runs the task."""
    state.publish([message()], "app|1|1")
    assert facts(state)["status"] == "pending"
    verdict = state.start(message(), "me|1|1")
    assert (verdict.kind, verdict.attempts) == ("run", 1)
    assert (facts(state)["status"], facts(state)["holder"]) == ("running", "me|1|1")


def test_message_of_a_noted_task(state: State) -> None:
    """A noted task has its message at hand until it ends, and says whether that is out."""
    for way, is_over in (
        (lambda: state.published("app|1|1", ["t"]), False),
        (lambda: state.start(message(), "me|1|1"), False),
        (lambda: state.cancel("t", "not wanted"), True),
    ):
        state.client.flushdb()
        state.publish([message()], "app|1|1")
        assert Message.from_json(json.loads(state.client.hget(state.messages, "t"))) == message()
        assert (facts(state)["unsent"], facts(state)["keeper"]) == ("1", "app|1|1")
        way()
        assert not {"unsent", "keeper"} & facts(state).keys()
        assert (state.client.hget(state.messages, "t") is None) is is_over


def test_delivery_that_redis_does_not_know(state: State) -> None:
    """A message whose task was never noted, or forgotten, runs all the same."""
    assert state.start(message(), "me|1|1").kind == "run"
    assert facts(state)["name"] == "f"


def test_busy(state: State) -> None:
    """A second delivery is told which worker has the lease, and for how long."""
    state.start(message(), ELSEWHERE)
    verdict = state.start(message(), "me|1|1")
    assert (verdict.kind, verdict.holder) == ("busy", ELSEWHERE)
    assert 4.0 < verdict.left <= 5.0
    assert facts(state)["attempts"] == "1"


def test_lease_that_ran_out(state: State) -> None:
    """A lease that was not renewed goes to the next worker that asks, as another attempt."""
    state.start(message(), ELSEWHERE)
    state.client.hset(f"{state.prefix}task:t", "until", "1.0")
    verdict = state.start(message(), "me|1|1")
    assert (verdict.kind, verdict.attempts) == ("run", 2)
    assert state.renew("t", ELSEWHERE) is None
    assert state.renew("t", "me|1|1") is False


def test_dead_holder(state: State, dead: str) -> None:
    """The lease of a process that is known to be dead is free at once."""
    state.start(message(), dead)
    verdict = state.start(message(), "me|1|1")
    assert verdict.kind == "busy"
    assert is_dead(verdict.holder)
    assert state.start(message(), "me|1|1", dead=verdict.holder).kind == "run"


@pytest.mark.skipif(processes.boot() is None, reason="nothing tells when a process has begun")
def test_who_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process lives, one of its number that began at another time does not.

    One that runs, and whose start cannot be read, is not known to be dead.
    """
    here = holder_here()
    machine, pid, born = here.split("|")
    assert not is_dead(here)
    assert is_dead(f"{machine}|{pid}|{int(born) + 1}")
    assert is_dead(f"{machine}|{2**22 + 1}|{born}")
    assert not is_dead(ELSEWHERE)
    assert not is_dead("")
    monkeypatch.setattr(processes, "_read", lambda _: "")
    assert not is_dead(here)
    assert is_dead(f"{machine}|{2**22 + 1}|{born}")


@pytest.mark.extended("processes")
def test_zombie() -> None:
    """A process that has ended and was not waited for is dead."""
    process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL)
    holder = holder_of(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(holder)
    process.wait()


def test_same_process_again(state: State) -> None:
    """The process that has the lease itself may begin anew: it runs one thing at a time."""
    state.start(message(), "me|1|1")
    assert state.start(message(), "me|1|1").attempts == 2


def test_end_is_for_good(state: State) -> None:
    """A final task is not run, not cancelled and not ended again."""
    state.start(message(), "me|1|1")
    assert state.end("t", "completed", holder="me|1|1", result="3")
    assert state.start(message(), "me|1|1").kind == "over"
    assert not state.end("t", "failed", holder="me|1|1")
    assert not state.end("t", "timeout", seq=0)
    assert state.cancel("t", "late") == ""
    assert (facts(state)["status"], facts(state)["result"]) == ("completed", "3")
    assert 0 < state.client.ttl(f"{state.prefix}task:t") <= 60


def test_end_by_another(state: State) -> None:
    """Only the holder of the lease, or one that knows the latest delivery, may end a task."""
    state.start(message(), "me|1|1")
    assert not state.end("t", "completed", holder="other|2|2")
    assert not state.end("t", "timeout", seq=1)
    assert state.end("t", "timeout", seq=0)


def test_cancel_at_the_broker(state: State) -> None:
    """A task that waits is CANCELLED for good, and its message runs nothing."""
    state.publish([message()], "app|1|1")
    assert state.cancel("t", "not wanted") == "not wanted"
    assert state.start(message(), "me|1|1").kind == "over"
    assert (facts(state)["status"], facts(state)["reason"]) == ("cancelled", "not wanted")


def test_cancel_while_it_runs(state: State) -> None:
    """Its holder is woken and hears of it with the next renewal, and so do all processes."""
    state.start(message(), "me|1|1")
    assert state.renew("t", "me|1|1") is False
    assert state.cancel("t", "not wanted") == ASKED
    assert [fields["k"] for _, fields in state.read("0-0", 0.1)] == ["started", "asked"]
    assert state.awaken("me|1|1", 1.0)
    assert state.renew("t", "me|1|1") is True


def test_cancelled_and_died(state: State) -> None:
    """A task whose worker died after its cancellation does not run again."""
    state.start(message(), ELSEWHERE)
    state.cancel("t", "not wanted")
    state.client.hset(f"{state.prefix}task:t", "until", "1.0")
    assert state.start(message(), "me|1|1").kind == "over"
    assert facts(state)["status"] == "cancelled"


def test_cancel_between_attempts(state: State) -> None:
    """A task that is cancelled before its next attempt does not say that it never ran."""
    state.start(message(), "me|1|1")
    state.again(message(1), "me|1|1", "retrying", 1.0, "", "failed once")
    assert state.cancel("t", "not wanted") == "it was cancelled before its next attempt"
    assert facts(state)["reason"] == "it was cancelled before its next attempt"


def test_cancel_of_nobody(state: State) -> None:
    """An unknown task is not cancelled."""
    assert state.cancel("t", "not wanted") == ""


def test_next_delivery(state: State) -> None:
    """After a retry the earlier message is stale, and the later one is a further attempt."""
    state.start(message(), "me|1|1")
    assert state.again(message(1), "me|1|1", "retrying", 1.0, "", "failed once") is True
    state.sent(message(1))
    assert state.start(message(), "you|2|2").kind == "stale"
    verdict = state.start(message(1), "you|2|2")
    assert (verdict.kind, verdict.attempts) == ("run", 2)


def test_next_delivery_that_was_not_sent(state: State) -> None:
    """If a worker dies before it has sent it, the earlier message brings it about."""
    state.start(message(), "me|1|1")
    state.again(message(1), "me|1|1", "retrying", 1.0, "", "failed once")
    verdict = state.start(message(), "you|2|2")
    assert verdict.kind == "again"
    assert '"seq": 1' in verdict.message


def test_next_delivery_of_an_earlier_release(state: State) -> None:
    """A next message that a worker of an earlier release stored is found by this one."""
    state.start(message(), "me|1|1")
    state.again(message(1), "me|1|1", "retrying", 1.0, "", "failed once")
    state.client.hset(f"{state.prefix}task:t", "next", json.dumps(message(1).as_json()))
    assert Message.from_json(json.loads(state.start(message(), "you|2|2").message)) == message(1)


def test_again_is_asked_twice(state: State) -> None:
    """An answer that was lost on its way is the same when it is asked for once more."""
    state.start(message(), "me|1|1")
    for _ in range(2):
        assert state.again(message(1), "me|1|1", "retrying", 1.0, "", "") is True
    assert facts(state)["seq"] == "1"


def test_again_after_a_cancellation(state: State) -> None:
    """A task that is not wanted has no next delivery."""
    state.start(message(), "me|1|1")
    state.cancel("t", "not wanted")
    assert state.again(message(1), "me|1|1", "retrying", 1.0, "", "") is False
    assert state.again(message(1), "other|2|2", "retrying", 1.0, "", "") is None


def test_waiting_for_a_throttle_is_no_attempt(state: State) -> None:
    """A task that comes back from a throttle continues the same attempt."""
    state.start(message(), "me|1|1")
    waited = replace(message(1), waited=True)
    state.again(waited, "me|1|1", "throttled", 1.0, "", "")
    assert state.start(waited, "me|1|1").attempts == 1


def test_reports_are_numbered(state: State) -> None:
    """Every move is reported once, in order, with the next number."""
    state.publish([message()], "app|1|1")
    state.start(message(), "me|1|1")
    state.progress("t", "me|1|1", 0.5, "half")
    state.progress("t", "other|2|2", 0.9, "not its task")
    state.end("t", "completed", holder="me|1|1", result="3")
    told = [fields for _, fields in state.read("0-0", 0.1)]
    assert [(one["k"], one["n"]) for one in told] == [
        ("started", "1"),
        ("progress", "2"),
        ("ended", "3"),
    ]
    assert state.latest()[1] == 3


@pytest.mark.parametrize("late", [False, True])
def test_message_that_may_come_twice(state: State, late: bool) -> None:
    """A message that may be at the broker twice runs once, when its task is forgotten too."""
    state.publish([message()], "app|1|1")
    if not late:
        state.repeated(["t"])
    state.start(message(), "me|1|1")
    state.end("t", "completed", holder="me|1|1", result="3")
    if late:
        state.repeated(["t"])
    state.forget(["t"])
    assert state.start(message(), "me|1|1").kind == "over"
    assert state.fetch(["t"]) == {}


def test_nothing_is_noted_of_an_unknown_task(state: State) -> None:
    """A task that Redis does not know is not made known by a second message."""
    state.repeated(["t"])
    assert state.fetch(["t"]) == {}


# -- windows


def take(state: State, key: str, rate: int, window: float, who: str) -> float | None:
    """Count a call, or return in how many seconds to try again."""
    return Windows(state).take(key, rate, window, who)[0]


def test_many_at_the_same_moment(state: State) -> None:
    """When many calls come at once, exactly as many pass as the rate allows."""
    barrier, passed = threading.Barrier(8), count()

    def call() -> None:
        barrier.wait(PATIENCE)
        for _ in range(10):
            if take(state, "w", 13, 30.0, "") is None:
                next(passed)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert next(passed) == 13
    assert state.client.zcard(f"{state.prefix}throttle:w") == 13


def test_counted_later(state: State) -> None:
    """A call can be counted at a later time, and the window moves with it."""
    _, number = Windows(state).take("w", 1, 30.0, "")
    assert Windows(state).restamp("w", number, 30.0, 10.0)
    wait = take(state, "w", 1, 30.0, "")
    assert wait is not None
    assert 30.0 < wait <= 40.0


def test_counted_too_late(state: State) -> None:
    """A call whose window has passed is no longer counted: others may have its place."""
    _, number = Windows(state).take("w", 1, 30.0, "")
    key = f"{state.prefix}throttle:w"
    state.client.zadd(key, {str(number): (state.now() - 31.0) * 1e6})
    assert not Windows(state).restamp("w", number, 30.0, 0.0)
    assert not Windows(state).restamp("w", number, 30.0, 0.0)
    assert state.client.zcard(key) == 0


def test_a_cancelled_task_of_another_process_has_an_error() -> None:
    """The record of a task that was cancelled elsewhere says so by its error, as one's own does."""
    found = {"status": "cancelled", "name": "tasks.add", "created": "1000.0", "ended": "1002.5"}

    record = record_of("7", found, SystemClock())

    assert isinstance(record.error, TaskCancelledError)
    assert record.ended is not None
    assert record.ended - record.created == pytest.approx(2.5)
    assert (record.started, record.remote, record.read) == (None, True, True)
