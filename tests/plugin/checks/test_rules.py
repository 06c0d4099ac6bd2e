"""The rules that the framework keeps in every test, and what a test is told about a broken one."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from textwrap import dedent
from typing import Any

import pytest

from framework import background_task, current_task, retry_task, throttled_task
from framework.protocols import TaskEvent, TaskStatus
from framework.testing import RateLimit, attempt_bound, rate_limits
from pytest_asyncframe._seen.entries import Moment, Start
from pytest_asyncframe._seen.rules import Limits, broken, started_after_stop
from pytest_asyncframe.probe import Probe
from tests.plugin.endings import LOOPS, PASSED, PLAIN, Ending

BUG = "asyncframe has a bug"
NO_LIMITS = Limits(workers=100, pool="asyncframe-_")


@background_task
def work() -> None:
    """Do nothing."""


@background_task
@retry_task(max_retries=2, retry_delay=1.0)
def fragile() -> None:
    """Fail twice."""
    task = current_task()
    assert task is not None
    if task.attempts < 3:
        raise ConnectionError


def moments_of(probe: Probe) -> list[Moment]:
    """Return what has happened so far."""
    return list(probe._recorder.moments)


def wrongs(moments: list[Moment], limits: Limits = NO_LIMITS) -> list[str]:
    """Return the first line of each finding, without the name of the task."""
    return [text.splitlines()[0].partition("): ")[2] for text in broken(moments, (), limits)]


def event_at(moments: list[Moment], number: int, **changes: Any) -> Moment:
    """Return a copy of one moment, its event with other fields."""
    moment = moments[number]
    assert isinstance(moment.what, TaskEvent)
    return replace(moment, what=replace(moment.what, **changes))


# -- one task


def completed_task(probe: Probe) -> list[Moment]:
    """Run one task, and return its moments: submitted, started, attempt 1, completed."""
    work()
    probe.run_until_idle()
    moments = moments_of(probe)
    assert [getattr(one.what, "kind", one.what) for one in moments] == [
        "submitted",
        "started",
        1,
        "completed",
    ]
    return moments


def test_what_really_happens_keeps_every_rule(asyncframe: Probe) -> None:
    """A task that completes breaks no rule."""
    assert broken(completed_task(asyncframe), (), NO_LIMITS) == []


def test_a_start_after_the_end(asyncframe: Probe) -> None:
    """A final status is final."""
    moments = completed_task(asyncframe)
    moments.append(event_at(moments, 1))

    assert wrongs(moments) == [
        "the event started came while it was completed, with the status running"
    ]


def test_two_ends(asyncframe: Probe) -> None:
    """A task ends once."""
    moments = completed_task(asyncframe)
    moments.append(event_at(moments, 3, kind="failed", status=TaskStatus.FAILED))

    assert wrongs(moments) == [
        "the event failed came while it was completed, with the status failed"
    ]


@pytest.mark.parametrize("kind", ["late_result", "evicted"])
def test_what_may_follow_the_end(asyncframe: Probe, kind: str) -> None:
    """After its end a task may have a late result, and may be removed."""
    moments = completed_task(asyncframe)
    moments.append(event_at(moments, 3, kind=kind))

    assert wrongs(moments) == []


def test_a_result_before_the_start(asyncframe: Probe) -> None:
    """A task that was never started has no result."""
    moments = completed_task(asyncframe)
    del moments[1:3]

    assert wrongs(moments) == [
        "the event completed came while it was pending, with the status completed"
    ]


def test_an_event_with_another_status(asyncframe: Probe) -> None:
    """An event leads to the status of the state machine, and to no other."""
    moments = completed_task(asyncframe)
    moments[1] = event_at(moments, 1, status=TaskStatus.PENDING)

    assert wrongs(moments)[0] == (
        "the event started came while it was pending, with the status pending"
    )


def test_an_event_before_the_submission(asyncframe: Probe) -> None:
    """Nothing happens to a task before it is submitted."""
    moments = completed_task(asyncframe)
    del moments[0]

    assert wrongs(moments) == [
        "the event started came before it was submitted, with the status running"
    ]


def test_stamps_that_go_back(asyncframe: Probe) -> None:
    """The stamps of a task never decrease."""
    moments = completed_task(asyncframe)
    moments[3] = event_at(moments, 3, at=moments[0].at - 1e-9)

    assert wrongs(moments) == ["its event completed goes back in time"]


def test_an_id_that_is_used_again(asyncframe: Probe) -> None:
    """An event of an earlier task with the same id is not held against the later one."""
    manager = asyncframe.manager
    manager.submit_nowait(work.fn, task_id="again")
    asyncframe.run_until_idle()
    asyncframe.clock.advance(10)
    assert manager.cleanup_completed_tasks(5) == 1
    manager.submit_nowait(work.fn, task_id="again")
    asyncframe.run_until_idle()
    moments = moments_of(asyncframe)
    later = event_at(moments, 5, kind="late_result", status=TaskStatus.TIMEOUT)
    moments.insert(6, later)

    assert wrongs(moments) == []


def test_one_attempt_too_many(asyncframe: Probe) -> None:
    """A task makes at most one attempt more than it has retries."""
    task_id = fragile()
    asyncframe.run_until_idle()
    moments = moments_of(asyncframe)
    record = moments[0].record
    assert record is not None
    assert attempt_bound(record) == 3
    assert wrongs(moments) == []
    moments.append(replace(moments[-2], what=4))

    assert wrongs(moments) == ["it has made 4 attempts, and 3 are allowed"]
    assert asyncframe.manager.wait_result(task_id) is None


def test_a_start_after_the_framework_has_stopped(asyncframe: Probe) -> None:
    """Nothing starts once the framework has stopped."""
    moments = completed_task(asyncframe)

    assert len(started_after_stop(moments, 1)) == 1
    assert started_after_stop(moments, 2) == []


# -- several tasks


@pytest.mark.asyncframe(mode="virtual")
def test_too_many_threads_at_once(asyncframe: Probe) -> None:
    """No more threads of the pool work at once than max_workers."""
    both = threading.Barrier(2)
    for _ in range(2):
        asyncframe.manager.submit_nowait(both.wait)
    asyncframe.run_until_idle()
    moments = moments_of(asyncframe)

    assert wrongs(moments, Limits(workers=2, pool="asyncframe-_")) == []
    (wrong,) = wrongs(moments, Limits(workers=1, pool="asyncframe-_"))
    assert re.fullmatch(
        r"it started on asyncframe-_\d while 1 other threads were working, and 1 may work at once",
        wrong,
    )


@pytest.mark.parametrize("mode", ["auto", "virtual", "threads"])
def test_spare_threads_are_allowed(ending: Ending, mode: str) -> None:
    """A thread that waits for another task of its pool gets a spare one beside it."""
    told = ending(f"""
    import pytest
    from framework import setup_async_framework

    @pytest.mark.asyncframe(mode="{mode}")
    async def test_it(asyncframe):
        manager = asyncframe.manager

        def waits_for_another():
            return manager.wait_result(manager.submit_nowait(int), timeout=60)

        async with setup_async_framework(None, max_workers=1):
            task_id = manager.submit_nowait(waits_for_another)
            assert (await asyncframe.completed(task_id)).result == 0
    """)

    assert told == PASSED


@pytest.mark.parametrize("mode", ["auto", "virtual", "threads"])
def test_abandoned_threads_are_not_counted(ending: Ending, mode: str) -> None:
    """A thread over its limit is replaced, and does not count as one that works."""
    told = ending(f"""
    import threading, pytest
    from framework import setup_async_framework

    @pytest.mark.asyncframe(mode="{mode}", lost_failures="off", leaks="off")
    async def test_it(asyncframe):
        gate = threading.Event()
        async with setup_async_framework(None, max_workers=1):
            submit = asyncframe.manager.submit_nowait
            submit(gate.wait, timeout=0.001)
            submit(gate.set)
            await asyncframe.settled()
    """)

    assert told == PASSED


def starts(*stamps: float) -> list[Start]:
    """Return starts of a throttled function at these seconds."""
    return [Start(at, None, "send") for at in stamps]


@pytest.mark.parametrize(
    ("stamps", "wrong"),
    [
        ((0.0, 1.0, 10.0, 11.0), None),
        ((0.0, 1.0, 9.9), "send started 3 times within 10 s, and 2 are allowed"),
        ((9.9, 0.0, 1.0), "send started 3 times within 10 s, and 2 are allowed"),
        ((0.25, 0.25, 10.25), None),
        ((), None),
    ],
)
def test_the_rate_of_a_throttled_function(stamps: tuple[float, ...], wrong: str | None) -> None:
    """No window has more starts than the rate; a start exactly one window later is free."""
    found = broken((), starts(*stamps), Limits([RateLimit("send", 2, 10.0)]))

    assert [text.splitlines()[0] for text in found] == ([f"{BUG}: {wrong}"] if wrong else [])


def test_which_rates_can_be_checked(asyncframe: Probe) -> None:
    """Only functions that were called, have no key, and share their name with no other one."""

    @throttled_task(rate_limit=5, time_window=7.0)
    def one() -> None: ...

    @throttled_task(rate_limit=5, key=lambda: 1)
    def keyed() -> None: ...

    @throttled_task(rate_limit=5)
    def copied() -> None: ...

    @throttled_task(rate_limit=5)
    def never_called() -> None: ...

    for call in (one, keyed, copied, copied.options(rate_limit=6)):
        call()

    (limit,) = rate_limits(asyncframe.manager)
    assert limit.name.endswith(".one")
    assert (limit.rate, limit.window) == (5, 7.0)


# -- a framework with a bug


def test_a_throttle_that_lets_too_many_through(ending: Ending) -> None:
    """A throttle that allows one call more than its rate is found out."""
    told = ending("""
    from framework import background_task, throttled_task
    from framework._running.waits.throttle import Gate

    @background_task
    @throttled_task(rate_limit=3, time_window=10, when_limited="wait")
    def send(): pass

    def test_it(asyncframe, monkeypatch):
        real = Gate.__init__
        monkeypatch.setattr(Gate, "__init__", lambda self, rate, *rest: real(self, rate + 1, *rest))
        for _ in range(9):
            send()
        asyncframe.run_until_idle()
    """)

    assert told.startswith(
        f"teardown: {BUG}: test_it.send started 4 times within 10 s, and 3 are allowed\n"
    )


def test_a_retry_that_never_stops(ending: Ending) -> None:
    """A retry that makes more attempts than it may is found out."""
    told = ending("""
    from framework import background_task, retry_task
    from framework._running.waits.retry import RetryPolicy

    @background_task
    @retry_task(max_retries=2)
    def fails(): raise LookupError

    def test_it(asyncframe, monkeypatch):
        monkeypatch.setattr(RetryPolicy, "allows", lambda self, error, attempt: attempt < 5)
        asyncframe.run_until_complete(fails(), check=False)
    """)

    assert "): it has made 5 attempts, and 3 are allowed\n" in told


@pytest.mark.parametrize("mode", ["virtual", "threads"])
def test_a_pool_with_too_many_threads(ending: Ending, mode: str) -> None:
    """A pool that starts more threads than it may is found out."""
    told = ending(f"""
    import threading, pytest
    from framework import setup_async_framework

    @pytest.mark.asyncframe(mode="{mode}")
    async def test_it(asyncframe, monkeypatch):
        crew = type(asyncframe.manager.pool._crew)
        monkeypatch.setattr(crew, "_room", lambda self: len(self.threads) < 3)
        monkeypatch.setattr(crew, "room", 1, raising=False)
        together = threading.Barrier(3)
        async with setup_async_framework(None, max_workers=2):
            for _ in range(3):
                asyncframe.manager.submit_nowait(together.wait)
            await asyncframe.settled()
    """)

    assert re.search(
        r"\): it started on asyncframe-_\d while 2 other threads were working, and 2 may work at "
        r"once\n",
        told,
    )
    assert told.count(BUG) == 1


# -- the report


TAMPERED = """
    from framework import background_task
    from framework.protocols import TaskStatus

    @background_task
    def work(): pass

    def test_it(asyncframe):
        task_id = work()
        asyncframe.run_until_idle()
        record = asyncframe._recorder.record(task_id)
        asyncframe.manager._core.ledger.emit("started", record, TaskStatus.RUNNING, 2)
"""


def test_a_broken_rule_fails_the_test(ending: Ending) -> None:
    """The test fails at its end, and is told that asyncframe is to blame, with the events."""
    told = re.sub(r"\b[0-9a-f]{32}\b", "ID", ending(TAMPERED))
    told = re.sub(r"\d+\.?\d* s  ", "AT  ", told)

    assert told == (
        "teardown: asyncframe has a bug in test_it.work (ID): the event started came while it "
        "was completed, with the status running\n"
        "    its events:\n"
        "      AT  test  submitted, pending, attempt 0\n"
        "      AT  asyncframe-_0  started, running, attempt 1\n"
        "      AT  asyncframe-_0  attempt 1 started\n"
        "      AT  asyncframe-_0  completed, completed, attempt 1\n"
        "      AT  test  started, running, attempt 2\n"
        "    this is no fault of the test: please report it, with these lines"
    )


def test_after_a_failure_it_is_in_the_timeline(pytester: pytest.Pytester) -> None:
    """A test that has failed is not failed again: its timeline has the finding."""
    pytester.makepyfile(dedent(TAMPERED) + "    assert task_id is None")

    result = pytester.runpytest(*PLAIN, *LOOPS)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*task timeline, teardown*", "findings:", f"*{BUG} in *"])
