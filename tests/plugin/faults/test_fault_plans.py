"""What a fault plan refuses, what it shows, and what it finds at the end of a test."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from framework import QueueFullError, background_task
from pytest_asyncframe.executor import DeterministicExecutor
from pytest_asyncframe.faults import FaultPlan, Firing, InjectedError
from pytest_asyncframe.probe import Probe
from tests.plugin.endings import PASSED, Ending

EVENTS = "started, progress, retrying, throttled"
KINDS = "fail, slow, crash_worker, deliver_twice, queue_full"
EXC = "exc must be an exception, an exception class, or a function that returns or raises one"
UNMADE = (
    "exc=NeedsArgumentsError cannot be created without arguments (NeedsArgumentsError.__init__() "
    "missing 1 required positional argument: 'code'): pass an instance, or a function that "
    "returns one"
)


@background_task
def charge(order: int) -> int:
    """Return the order."""
    return order


class NeedsArgumentsError(Exception):
    """Cannot be created without arguments."""

    def __init__(self, code: int) -> None:
        super().__init__(code)


async def coroutine() -> Exception:
    """Return an error, but only if it is awaited."""
    return Exception()


Planning = Callable[[Any], object]

REFUSED: list[tuple[Planning, type[Exception], str]] = [
    (
        lambda plan: plan.fail(charge, on="1"),
        TypeError,
        "on must be a whole number, a list of them, or None, not '1'",
    ),
    (
        lambda plan: plan.fail(charge, on=1.5),
        TypeError,
        "on must be a whole number, a list of them, or None, not 1.5",
    ),
    (
        lambda plan: plan.fail(charge, on=[1, "2"]),
        TypeError,
        "on must be a whole number, not '2'",
    ),
    (lambda plan: plan.fail(charge, on=True), TypeError, "on must be a whole number, not True"),
    (lambda plan: plan.slow(charge, seconds=1, on=0), ValueError, "on must be 1 or more, not 0"),
    (
        lambda plan: plan.fail(charge, on=[]),
        ValueError,
        "on must have a number: leave it out for each attempt",
    ),
    (
        lambda plan: plan.fail(charge, exc=404),
        TypeError,
        f"{EXC}, not 404",
    ),
    (
        lambda plan: plan.fail(charge, exc=int),
        TypeError,
        f"{EXC}, not <class 'int'>",
    ),
    (
        lambda plan: plan.chaos(0.5, exc=coroutine),
        TypeError,
        f"{EXC}, not {coroutine!r}",
    ),
    (
        lambda plan: plan.fail(charge, exc=NeedsArgumentsError),
        TypeError,
        UNMADE,
    ),
    (
        lambda plan: plan.slow(charge, seconds="40"),
        TypeError,
        "seconds must be a number, not '40'",
    ),
    (
        lambda plan: plan.slow(charge, seconds=0),
        ValueError,
        "seconds must be above 0 and finite, not 0",
    ),
    (
        lambda plan: plan.chaos(0.5, seconds=math.inf),
        ValueError,
        "seconds must be above 0 and finite, not inf",
    ),
    (
        lambda plan: plan.crash_worker(after="completed"),
        ValueError,
        f"after must be one of {EVENTS}, not 'completed'",
    ),
    (lambda plan: plan.queue_full(next=0), ValueError, "next must be 1 or more, not 0"),
    (lambda plan: plan.queue_full(next=1.0), TypeError, "next must be a whole number, not 1.0"),
    (lambda plan: plan.chaos(1.5), ValueError, "p must be from 0 to 1, not 1.5"),
    (lambda plan: plan.chaos(math.nan), ValueError, "p must be from 0 to 1, not nan"),
    (lambda plan: plan.chaos("often"), TypeError, "p must be a number, not 'often'"),
    (lambda plan: plan.chaos(0.5, "7"), TypeError, "seed must be a whole number, not '7'"),
    (
        lambda plan: plan.chaos(0.5, kinds="fail"),
        ValueError,
        f"kinds must be a list of {KINDS}, not 'fail'",
    ),
    (
        lambda plan: plan.chaos(0.5, kinds=["fail", "explode"]),
        ValueError,
        f"kinds must be a list of {KINDS}, not ['fail', 'explode']",
    ),
    (
        lambda plan: plan.chaos(0.5, kinds=[]),
        ValueError,
        f"kinds must be a list of {KINDS}, not []",
    ),
    (
        lambda plan: plan.deliver_twice(7),
        TypeError,
        "fn must be a decorated function or its name, not 7",
    ),
    (
        lambda plan: plan.deliver_twice(None),
        TypeError,
        "fn must be a decorated function or its name, not None",
    ),
]


def test_what_is_refused(asyncframe: Probe) -> None:
    """A wrong value is an error where it is planned, which says what is allowed."""
    found = []
    for plan, _, _ in REFUSED:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # compared below
            plan(asyncframe.faults)
        found.append((caught.type, str(caught.value)))

    assert found == [(error, text) for _, error, text in REFUSED]
    assert asyncframe.faults.planned == ()


def test_a_wrong_name(asyncframe: Probe) -> None:
    """A name that no function has is refused with those that are like it."""
    with pytest.raises(
        LookupError,
        match=r"^no decorated function and no task of this test is named "
        r"'test_fault_plans\.chrage'\. Did you mean .*test_fault_plans\.charge\?",
    ):
        asyncframe.faults.fail("test_fault_plans.chrage")
    asyncframe.faults.fail("test_fault_plans.charge")
    with pytest.raises(InjectedError, match=r"^attempt 1 of charge was made to fail$"):
        asyncframe.run_until_complete(charge(1))


def test_an_attempt_that_has_started(asyncframe: Probe) -> None:
    """A fault for an attempt of the past is refused; without numbers, it is for those to come."""
    asyncframe.run_until_complete(charge(1))
    with pytest.raises(
        ValueError,
        match=r"^on=\[1, 3\]: attempt 1 of charge has started already, the next one is 2; "
        r"plan faults before the task is submitted$",
    ):
        asyncframe.faults.fail(charge, on=[3, 1])
    asyncframe.faults.fail(charge)
    with pytest.raises(InjectedError, match=r"^attempt 2 of charge was made to fail$"):
        asyncframe.run_until_complete(charge(1))


def test_two_failures_of_one_attempt(asyncframe: Probe) -> None:
    """An attempt fails only once; but the others may fail with another error."""
    asyncframe.faults.fail(charge, on=1, exc=TimeoutError)
    with pytest.raises(
        ValueError,
        match=r"^fail\(test_fault_plans\.charge, on=\[1, 2\], exc=OSError\) would not take place "
        r"as planned: the attempts of fail\(charge, on=\[1\], exc=TimeoutError\), planned at "
        r"\S+:\d+ in test_two_failures_of_one_attempt, fail already$",
    ):
        asyncframe.faults.fail("test_fault_plans.charge", on=[1, 2], exc=OSError)
    asyncframe.faults.fail(charge, exc=OSError)
    with pytest.raises(
        ValueError, match=r"^fail\(charge\) would not take place as planned: .* fail already$"
    ):
        asyncframe.faults.fail(charge)
    tasks = [asyncframe.run_until_complete(charge(1), check=False) for _ in range(2)]

    assert [type(task.error) for task in tasks] == [TimeoutError, OSError]


@pytest.mark.asyncframe(mode="threads")
def test_slow_needs_virtual_time(asyncframe: Probe) -> None:
    """Where time is real, slow() is refused, and chaos has no slow attempts."""
    text = (
        r" needs virtual time, but time is real in the mode 'threads': use another mode of "
        r"asyncframe, or request task_clock$"
    )
    with pytest.raises(RuntimeError, match=r"^slow\(\)" + text):
        asyncframe.faults.slow(charge, seconds=1)
    with pytest.raises(RuntimeError, match=r"^slow" + text):
        asyncframe.faults.chaos(1, kinds=["slow", "fail"])
    asyncframe.faults.chaos(1, fn=charge, kinds=["fail"])
    with pytest.raises(InjectedError, match=r"^attempt 1 of charge was made to fail$"):
        asyncframe.run_until_complete(charge(1))


@pytest.mark.asyncframe(mode="threads")
def test_chaos_in_real_time(asyncframe: Probe) -> None:
    """Where time is real, chaos makes no attempt slow."""
    asyncframe.faults.chaos(0.5, 1)
    for number in range(40):
        try:
            asyncframe.run_until_complete(charge(number), check=False)
        except QueueFullError:
            continue
    asyncframe.run_until_idle()
    texts = {re.sub(r"\d+", "N", firing.text) for firing in asyncframe.faults.fired}

    assert texts == {
        "submission of charge meets a full queue",
        "charge is delivered twice",
        "the worker of charge crashes after 'started'",
        "attempt N of charge fails with InjectedError",
    }


def test_the_order_of_kinds_does_not_matter(ending: Ending) -> None:
    """The same seed gives the same faults, in whichever order the kinds are given."""
    told = ending("""
    import pytest
    from framework import background_task

    found = []

    @background_task
    def charge(order): pass

    @pytest.mark.parametrize("kinds", [["slow", "fail"], ("fail", "slow"), {"fail", "slow"}])
    def test_it(asyncframe, kinds):
        asyncframe.faults.chaos(0.5, 1, kinds=kinds)
        for number in range(20):
            asyncframe.run_until_complete(charge(number), check=False)
        found.append([firing.text for firing in asyncframe.faults.fired])
        assert len({text.partition(" of ")[2] for text in found[0]}) == 2
        assert found == [found[0]] * len(found)
    """)

    assert told == PASSED


def test_an_executor_without_a_clock(
    task_faults: FaultPlan, task_executor: DeterministicExecutor
) -> None:
    """Time is real with an executor and no clock, so slow() is refused."""
    with pytest.raises(RuntimeError, match=r"^slow\(\) needs virtual time, .* the mode 'manual': "):
        task_faults.slow(charge, seconds=1)


# -- what it shows


def test_what_a_plan_shows(asyncframe: Probe) -> None:
    """A plan prints what is planned, where, and how often it has taken place."""
    plan = asyncframe.faults
    assert repr(plan) == "planned faults:"
    plan.fail(charge, on=[2, 1], exc=TimeoutError)
    plan.slow(charge, seconds=40, on=3)
    plan.queue_full(next=2, fn=charge)
    lines = re.sub(r"at \S+:\d+ in", "at FILE in", repr(plan)).splitlines()
    name = "test_what_a_plan_shows"
    assert lines == [
        "planned faults:",
        f"  fail(charge, on=[1, 2], exc=TimeoutError) at FILE in {name}: fired never",
        f"  slow(charge, seconds=40, on=[3]) at FILE in {name}: fired never",
        f"  queue_full(next=2, fn=charge) at FILE in {name}: fired never",
    ]
    ids = []
    for _ in range(5):
        try:
            ids.append(charge(1))
        except Exception:
            continue
    asyncframe.run_until_idle()
    assert [type(task.error) for task in asyncframe.submitted(charge)] == [
        TimeoutError,
        TimeoutError,
        type(None),
    ]
    assert [line.rpartition(": ")[2] for line in repr(plan).splitlines()[1:]] == [
        "fired twice",
        "fired once",
        "fired twice",
    ]
    assert [repr(firing) for firing in plan.fired] == [
        "<submission of charge meets a full queue, at 0 s>",
        "<submission of charge meets a full queue, at 0 s>",
        "<attempt 1 of charge fails with TimeoutError, at 0 s>",
        "<attempt 2 of charge fails with TimeoutError, at 0 s>",
        "<attempt 3 of charge takes 40 s longer, at 0 s>",
    ]
    fail, slow, _ = plan.planned
    assert slow.fired == (Firing(slow, "charge", ids[2], 3, 0.0, slow.fired[0].text),)
    assert [firing.number for firing in fail.fired] == [1, 2]
    assert fail.place.endswith(f" in {name}")
    assert repr(fail) == f"<{fail}>"


def test_how_errors_are_shown(asyncframe: Probe) -> None:
    """An error is shown by its name if it is a class or a function, else as source code."""

    def no_bank() -> Exception:
        return ConnectionError()

    plan = asyncframe.faults
    faults = [
        plan.fail(charge, on=1, exc=ConnectionError("no bank")),
        plan.fail(charge, on=2, exc=no_bank),
        plan.fail(charge, on=3),
    ]
    for _ in range(3):
        asyncframe.run_until_complete(charge(1), check=False)

    assert [fault.call for fault in faults] == [
        "fail(charge, on=[1], exc=ConnectionError('no bank'))",
        "fail(charge, on=[2], exc=no_bank)",
        "fail(charge, on=[3])",
    ]


# -- at the end of a test

HEAD = """
    import pytest
    from framework import async_task, background_task, retry_task, current_task
    from pytest_asyncframe.faults import InjectedError

    @background_task
    def charge(): pass

    @async_task
    async def slow():
        import asyncio
        await asyncio.sleep(10)
"""


def in_test(planned: str, *lines: str) -> str:
    """Return a file with a test that plans a fault and does something else."""
    body = "\n        ".join([planned, *lines])
    return (
        HEAD
        + f"""
    async def test_it(asyncframe):
        faults = asyncframe.faults
        {body}
        await asyncframe.settled()
    """
    )


NEVER: list[tuple[str, list[str], str]] = [
    ("fail(charge)", [], "there was no attempt of charge after that"),
    (
        "fail(charge, on=[1, 2, 3])",
        ["await asyncframe.completed(charge(), check=False)"],
        "attempts 2 and 3 of charge never came, the last one was 1",
    ),
    (
        "slow(charge, seconds=40, on=[2])",
        ["charge()"],
        "attempt 2 of charge never came, the last one was 1",
    ),
    ("slow(charge, seconds=40)", ["await slow()"], "there was no attempt of charge after that"),
    (
        "crash_worker(after='progress')",
        ["charge()"],
        "there was no event 'progress' after that",
    ),
    (
        "crash_worker(after='started', fn=slow)",
        ["charge()"],
        "there was no event 'started' of slow after that",
    ),
    ("queue_full(next=3)", [], "there was no submission after that"),
    (
        "queue_full(next=3)",
        ["with pytest.raises(Exception): charge()"],
        "submissions 2 and 3 never came, the last one was 1",
    ),
    ("deliver_twice(charge)", [], "there was no task of charge after that"),
    ("chaos(0.5, seed=1)", [], "there was no task after that"),
]
"""A planned fault, what a test does then, and what is said of the fault."""


def test_a_fault_that_never_fires(ending: Ending) -> None:
    """A fault that does not take place as planned fails the test, and its line is named."""
    tests = [
        in_test(f"faults.{planned}", *lines).removeprefix(HEAD).replace("test_it", f"test_{number}")
        for number, (planned, lines, _) in enumerate(NEVER)
    ]
    told = ending(HEAD + "".join(tests))

    assert re.sub(r"test_it\.py:[0-9]+", "FILE", told).splitlines() == [
        f"teardown: fault never fired: {planned}, planned at FILE in test_{number}: {finding}"
        for number, (planned, _, finding) in enumerate(NEVER)
    ]


def test_a_fault_that_comes_too_late(ending: Ending) -> None:
    """A fault for each attempt, all of which another fault has taken, fails the test."""
    lines = ["faults.fail(charge)", "await asyncframe.completed(charge(), check=False)"]
    told = ending(in_test("faults.fail(charge, on=[1])", *lines))

    assert told == (
        "teardown: fault never fired: fail(charge), planned at test_it.py:16 in test_it: no "
        "attempt of charge after that was free for it"
    )


def test_chaos_may_do_nothing(ending: Ending) -> None:
    """Chaos need not do anything, as long as there was something that it could have done."""
    assert ending(in_test("faults.chaos(0)", "charge()")) == PASSED


def test_a_failure_that_was_injected_is_lost_as_well(ending: Ending) -> None:
    """An injected failure that nobody reads fails the test, and the fault is named."""
    told = ending(in_test("faults.fail(charge)", "charge()"))

    assert re.sub(r"\(\w{32}\)", "(ID)", told) == (
        "teardown: lost failure: test_it.charge (ID) is failed, submitted at test_it.py:16 in "
        "test_it, and nobody has read its error (injected by the fault planned at "
        "test_it.py:15 in test_it):\n"
        "    pytest_asyncframe.faults.InjectedError: attempt 1 of charge was made to fail"
    )


def test_a_failure_that_was_injected_may_be_expected(ending: Ending) -> None:
    """expect_failure() takes injected failures, and a crash is no failure."""
    lines = ["charge()", "asyncframe.expect_failure(charge, InjectedError)", "faults.fail(charge)"]
    assert ending(in_test(*reversed(lines))) == PASSED
    assert ending(in_test("faults.crash_worker()", "charge()")) == PASSED


def test_a_second_run_that_is_cut_short(ending: Ending) -> None:
    """A test that does not wait for the second run of a coroutine is told so."""
    told = ending("""
    import asyncio
    from framework import background_task

    count = []

    @background_task
    async def work():
        count.append(1)
        await asyncio.sleep(10 * len(count))

    async def test_it(asyncframe):
        asyncframe.faults.deliver_twice(work)
        task_id = await asyncframe.manager.submit(work, task_id="work-1")
        await asyncframe.completed(task_id)
    """)

    assert told == (
        "teardown: fault cut short: deliver_twice(work), planned at test_it.py:12 in test_it: "
        "the second run of work-1 had not ended; wait for it with settled() or run_until_idle()"
    )


def test_a_second_run_on_a_thread_that_is_left(ending: Ending) -> None:
    """A test that does not wait for the second run of a sync function has left a call."""
    told = ending("""
    import time
    from framework import background_task

    count = []

    @background_task
    def work():
        count.append(1)
        time.sleep(10 * len(count))

    def test_it(asyncframe):
        asyncframe.faults.deliver_twice(work)
        asyncframe.run_until_complete(work())
    """)

    assert told == "teardown: leaked call of the pool: test_it.work (second delivery), is running"


@pytest.mark.parametrize("end", ["assert False", "pytest.skip('no time')"])
def test_a_test_that_does_not_come_to_its_end(ending: Ending, end: str) -> None:
    """If a test has failed or is skipped, its faults need not have taken place."""
    told = ending(in_test("faults.fail(charge)", end))

    assert "never fired" not in told


def test_the_gate_is_always_on(ending: Ending) -> None:
    """What ini keys and markers turn off are other gates."""
    told = ending("""
    import pytest

    @pytest.mark.asyncframe(leaks="off", lost_failures="off")
    def test_it(task_faults):
        task_faults.queue_full()
    """)

    assert told.startswith("teardown: fault never fired: queue_full(next=1), planned at ")


def test_the_next_test_has_a_plan_of_its_own(ending: Ending) -> None:
    """Faults end with their test."""
    told = ending("""
    import pytest
    from framework import QueueFullError, background_task

    @background_task
    def charge(): pass

    def test_it(asyncframe):
        asyncframe.faults.queue_full()
        with pytest.raises(QueueFullError):
            charge()

    def test_next(asyncframe):
        assert asyncframe.faults.planned == asyncframe.faults.fired == ()
        charge()
        asyncframe.run_until_idle()
    """)

    assert told == PASSED
