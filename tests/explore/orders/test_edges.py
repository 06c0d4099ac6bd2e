"""The points at the start and the end of tasks: left out until something may notice them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import pytest

from framework import Task, background_task, current_task, get_thread_pool
from pytest_asyncframe._explore.edges import OF_STATES, QUIET, Edges, looking
from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe._explore.schedule import Default
from pytest_asyncframe.executor import DeterministicExecutor
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import one_run
from tests.explore.policies.test_exhaustive import schedules
from tests.explore.sessions import PLAIN, replay_line, run

Body: TypeAlias = Callable[[Probe, list[Any]], object]
"""What a test does, given where it logs."""


def report() -> Task:
    """Pass a point of level "framework", and return the task."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5)
    return task


def explored(body: Body, policy: str, *, edges: bool) -> tuple[list[tuple[Any, ...]], str]:
    """Return the log of each schedule, and what was noticed in the last one if it ends them."""
    made, logs = make_policy(policy, 0), list[tuple[Any, ...]]()
    while (strategy := made.next()) is not None:
        log, points = list[Any](), Edges(are_points=edges)
        made.ended(one_run(lambda probe: body(probe, log), strategy, edges=points))  # noqa: B023
        logs.append(tuple(log))
        if points.noticed:
            return logs, points.noticed
    return logs, ""


def reporting(times: Iterable[int]) -> Body:
    """Return a test with a task for each number, which reports progress so often."""

    def body(probe: Probe, log: list[Any]) -> None:
        @background_task
        def work(number: int, times: int) -> None:
            log.append(number)
            for _ in range(times):
                report()
                log.append(number)

        for number, one in enumerate(times):
            work(number, one)
        probe.run_until_idle()

    return body


@pytest.mark.parametrize("most", [0, 1, 2, None])
def test_as_many_schedules_as_orders(most: int | None) -> None:
    """Two tasks have one schedule for each order of what they do, with as few preemptions."""
    policy = "exhaustive" if most is None else f"exhaustive:{most}"
    for times in [(0, 0), (1, 1), (2, 2), (1, 3)]:
        scripts = [["step"] * (1 + one) for one in times]

        logs, noticed = explored(reporting(times), policy, edges=False)

        assert noticed == ""
        assert sorted(logs) == sorted(
            order for order, preempts in schedules(scripts) if most is None or preempts <= most
        )


# ------------------------------------------------------------------ what notices them


@background_task
def work() -> None:
    """Do nothing that anybody could notice."""
    report()


def at_state_of(look: Callable[[Probe], object]) -> Callable[[Probe], object]:
    """Return a test that looks while a task is running and another one has not started."""

    def body(probe: Probe) -> None:
        looking = background_task(lambda: look(probe))
        looking()
        work()
        probe.run_until_idle()

    return body


async def nothing() -> None:
    """Do nothing, on a loop."""


def with_options(**options: Any) -> Callable[[Probe], object]:
    """Return a test that submits a task with options."""

    def body(probe: Probe) -> None:
        work.options(**options)()
        probe.run_until_idle()

    return body


def after(act: Callable[[Probe], object]) -> Callable[[Probe], object]:
    """Return a test that does something after its task."""

    def body(probe: Probe) -> None:
        work()
        probe.run_until_idle()
        act(probe)

    return body


def waits_for_another(probe: Probe) -> None:
    """Let a task wait for one that has not started."""
    background_task(lambda: probe.manager.wait_result(work()))()
    probe.run_until_idle()


LOUD: dict[str, tuple[Callable[[Probe], object], str]] = {
    "figures": (at_state_of(lambda probe: probe.manager.get_stats()), "get_stats"),
    "count": (at_state_of(lambda probe: probe.manager.get_active_count()), "get_active_count"),
    "all": (at_state_of(lambda probe: probe.manager.get_all_tasks()), "get_all_tasks"),
    "active": (at_state_of(lambda probe: probe.manager.get_active_tasks()), "get_active_tasks"),
    "status": (at_state_of(lambda probe: probe.submitted(work)[0].status), "status"),
    "repr": (at_state_of(lambda probe: repr(probe.submitted(work))), "__repr__"),
    "dict": (at_state_of(lambda probe: probe.submitted(work)[0].to_dict()), "to_dict"),
    "rate": (at_state_of(lambda probe: probe.rate(work)), "rate"),
    "a sink": (after(lambda probe: probe.manager.subscribe(print)), "subscribe"),
    "always": (after(lambda probe: probe.always(lambda: True)), "always"),
    "a clean-up": (
        after(lambda probe: probe.manager.cleanup_completed_tasks()),
        "cleanup_completed_tasks",
    ),
    "a fault plan": (after(lambda probe: probe.faults), "faults"),
    "the pool": (after(lambda _: get_thread_pool().get_stats()), "get_stats"),
    "a call of the pool": (
        after(lambda _: get_thread_pool().submit(report).exception()),
        "a call of the pool",
    ),
    "a loop": (after(lambda _: asyncio.run(nothing())), "an event loop"),
    "what never starts": (lambda _: work(), "a task that has not started"),
    "a hook": (with_options(on_complete=print), "work"),
    "a priority": (with_options(priority="high"), "work"),
    "a delay": (with_options(delay=1), "work"),
    "a place": (with_options(max_running=1), "work"),
    "a wait in a task": (waits_for_another, "wait_result"),
}
"""What may notice whether a start or an end is a point, and what is said of it."""


def noticed_in(body: Callable[[Probe], object]) -> str:
    """Return what is noticed in the default schedule of a test, without the path to it."""
    edges = Edges(are_points=False)
    one_run(body, Default(), edges=edges)
    return edges.noticed.rpartition(".")[2]


def test_what_may_notice_a_point() -> None:
    """Whoever looks at what a start or an end changes is noticed in the default schedule."""
    found = {name: noticed_in(body) for name, (body, _) in LOUD.items()}
    assert found == {name: expected for name, (_, expected) in LOUD.items()}


QUIETLY: dict[str, Callable[[Probe], object]] = {
    "figures": lambda probe: probe.manager.get_stats(),
    "a task": lambda probe: probe.submitted(work)[0].to_dict(),
    "idle": lambda probe: probe.assert_idle(),
    "calls": lambda probe: probe.assert_submitted(work, times=1),
    "an end": lambda probe: probe.run_until_complete(work()).status,
    "a result": lambda probe: probe.manager.wait_result(work()),
}
"""What a test may do after its tasks, and notice nothing."""


def test_what_cannot_notice_a_point() -> None:
    """Once all tasks have ended, their states may be looked at, and ends may be waited for."""
    found = {name: noticed_in(after(act)) for name, act in QUIETLY.items()}
    assert found == dict.fromkeys(QUIETLY, "")


def test_all_that_is_public_is_known() -> None:
    """What is said not to look is there, and what is new is taken for a look."""
    for owner, quiet in QUIET.items():
        assert quiet <= set(dir(owner))
        assert not quiet & set(looking(owner))
    assert set(looking(Task)) >= {"status", "result", "to_dict", "__repr__"}
    assert set(looking(DeterministicExecutor)) >= {"pending", "run_next", "drain"}
    for owner, names in OF_STATES.items():
        assert names <= set(looking(owner))


# ------------------------------------------------------------------ equal sets


def observed(probe: Probe, log: list[Any]) -> None:
    """Log what a task sees of another one, which has no point of its own."""

    @background_task
    def quiet() -> None:
        log.append("ran")

    @background_task
    def watch() -> None:
        log.append(probe.submitted(quiet)[0].status.value)

    quiet()
    watch()
    probe.run_until_idle()


def handed(probe: Probe, log: list[Any]) -> None:
    """Log what a thread of the test sees after a task has begun."""
    begun = threading.Event()

    @background_task
    def first() -> None:
        begun.set()
        report()
        log.append("first")

    @background_task
    def second() -> None:
        log.append("second")

    first()
    second()
    begun.wait()
    log.append(probe.manager.get_stats()["pending"])
    probe.run_until_idle()


@pytest.mark.extended("time")
@pytest.mark.parametrize("body", [observed, handed, reporting((2, 1))])
def test_equal_outcomes(body: Body) -> None:
    """All that may happen is the same as with points at each start and end."""
    for policy in ("exhaustive:0", "exhaustive:1", "exhaustive:2"):
        every, _ = explored(body, policy, edges=True)
        some, noticed = explored(body, policy, edges=False)

        assert {*map(str, every)} == {*map(str, some)} or noticed
        assert (noticed == "") == (body not in (observed, handed))


# ------------------------------------------------------------------ in a session

STARTED = """
import pytest
from framework import TaskStatus, background_task

class Shop:
    def __init__(self, manager):
        self.manager, self.waiting = manager, None

@background_task
def stock(shop):
    pass

@background_task
def count(shop):
    if {looks}:
        shop.waiting = shop.manager.get_active_count()
        running = shop.manager.get_tasks_by_status("running")
        assert len(running) == 1, "another one has started"

@pytest.mark.interleave(policy="exhaustive:2", level="framework")
def test_shop(asyncframe):
    shop = Shop(asyncframe.manager)
    stock(shop)
    count(shop)
    asyncframe.run_until_idle()
"""


@pytest.mark.extended("time")
def test_a_race_with_a_start_is_found(pytester: pytest.Pytester) -> None:
    """A task that must not start before another one has looked is found, and replayed."""
    result = run(pytester, STARTED.format(looks="True"), *PLAIN)
    result.assert_outcomes(failed=1)
    line = replay_line(result)
    assert line is not None
    again = run(pytester, STARTED.format(looks="True"), *PLAIN, f"--asyncframe-replay={line}")

    again.stdout.fnmatch_lines(["*another one has started*", "*fails with the schedule of*"])


def test_without_a_look_there_are_few(pytester: pytest.Pytester) -> None:
    """What a pass claims is the schedules without the points, of which there are two here."""
    result = run(pytester, STARTED.format(looks="False"), *PLAIN, "-v")

    result.stdout.re_match_lines([r".*PASSED \(all 2 schedules of level framework, none fails\)"])
