"""What Prometheus reads of a known load."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from framework import (
    QueueFullError,
    RateLimitExceededError,
    TaskManager,
    TaskTimeoutError,
    async_task,
    background_task,
    get_task_manager,
    retry_task,
    scheduled_task,
    setup_async_framework,
    throttled_task,
)
from framework._records.records import EVENT_KINDS
from framework._records.statuses import END_KINDS
from framework.telemetry._series import Metrics
from framework.telemetry.prometheus import BUCKETS, PrometheusSink
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.probe import Probe
from tests.children import python
from tests.framework.refusing import Told, told_by
from tests.patience import PATIENCE


def scraped(registry: CollectorRegistry) -> dict[str, float]:
    """Return what Prometheus reads, without the times at which series were made."""
    lines = generate_latest(registry).decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {series: float(value) for series, value in found.items() if "_created" not in series}


def of(found: dict[str, float], name: str) -> dict[str, float]:
    """Return the series of one name that are not 0, without the name, prefix and buckets."""
    label, its = f'name="{name}"', {}
    for series, value in found.items():
        if label in series and value and "_bucket" not in series:
            short = series.replace(label, "").replace("{,", "{").replace("{}", "")
            its[short.removeprefix("asyncframe_")] = value
    return its


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of the test's own."""
    return CollectorRegistry()


def named(name: str, call: Callable[..., Any]) -> Any:
    """Return a function as a task of this name."""
    return background_task(name=name)(call)


# -- counting and timing


async def test_a_known_load(
    registry: CollectorRegistry, task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """Each task is counted once by its name and status, and timed with its exact seconds."""
    PrometheusSink(registry).attach(task_manager)

    async def sleep(seconds: float) -> None:
        await task_clock.asleep(seconds)

    slow = named("slow", sleep)
    for seconds in (0.5, 2.0, 2.0):
        slow(seconds)
    late = slow.options(timeout=4.0)(1_000)
    cancelled = slow(2_000)
    delayed = slow.options(delay=3_600)(0)
    await task_clock.run_for(5.0)
    await task_manager.cancel_task(cancelled)
    await task_manager.cancel_task(delayed)
    with pytest.raises(
        TaskTimeoutError, match=r"^task \'\w+\' \(slow\) ran past its time limit of 4 s$"
    ):
        await task_manager.get_result(late)

    found = scraped(registry)
    assert of(found, "slow") == {
        "tasks_submitted_total": 6.0,
        'tasks_ended_total{status="completed"}': 3.0,
        'tasks_ended_total{status="timeout"}': 1.0,
        'tasks_ended_total{status="cancelled"}': 2.0,
        "task_wait_seconds_count": 5.0,
        "task_run_seconds_count": 5.0,
        "task_run_seconds_sum": 13.5,
    }
    buckets = {
        float(found_at[1]): value
        for series, value in found.items()
        if (found_at := re.fullmatch(r'asyncframe_task_run_.*le="([\d.]+)".*', series))
    }
    assert list(buckets) == list(BUCKETS)
    assert [buckets[bound] for bound in (0.1, 0.5, 1.0, 5.0, 3_600.0)] == [0, 1, 1, 5, 5]


async def test_waiting_for_a_thread(registry: CollectorRegistry, asyncframe: Probe) -> None:
    """The wait of a delayed task begins when its delay is over."""
    PrometheusSink(registry).attach(asyncframe.manager)
    await asyncframe.completed(named("late", int).options(delay=60.0)())
    assert of(scraped(registry), "late") == {
        "tasks_submitted_total": 1.0,
        'tasks_ended_total{status="completed"}': 1.0,
        "task_wait_seconds_count": 1.0,
        "task_run_seconds_count": 1.0,
    }


async def test_retries_and_throttles(
    registry: CollectorRegistry, task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """A retry counts for its task, and a refused call outside a task for its function."""
    PrometheusSink(registry).attach(task_manager)

    @background_task(name="flaky")
    @retry_task(max_retries=2, retry_delay=1.0)
    async def fail() -> None:
        raise LookupError

    @throttled_task(rate_limit=1)
    async def call() -> None:
        """Do nothing."""

    flaky = fail()
    await task_clock.run_for(3.0)
    with pytest.raises(LookupError, match=r"^$"):
        await task_manager.get_result(flaky)
    await call()
    with pytest.raises(RateLimitExceededError, match=r"^.*\.call may be called 1 times in 60 s; "):
        await call()

    found = scraped(registry)
    assert of(found, "flaky") == {
        "tasks_submitted_total": 1.0,
        "task_retries_total": 2.0,
        'tasks_ended_total{status="failed"}': 1.0,
        "task_wait_seconds_count": 1.0,
        "task_run_seconds_count": 1.0,
        "task_run_seconds_sum": 2.0,
    }
    throttled = [series for series in found if "throttled" in series and found[series]]
    assert len(throttled) == 1
    assert throttled[0].endswith('.<locals>.call"}')


async def test_awaited_tasks_count(registry: CollectorRegistry, task_manager: TaskManager) -> None:
    """A coroutine that is awaited as a task is submitted and ends like any other."""
    PrometheusSink(registry).attach(task_manager)

    @async_task(name="awaited")
    async def call() -> None:
        """Do nothing."""

    await call()
    found = of(scraped(registry), "awaited")
    assert found["tasks_submitted_total"] == 1.0
    assert found['tasks_ended_total{status="completed"}'] == 1.0


async def test_a_late_result(registry: CollectorRegistry, asyncframe: Probe) -> None:
    """A thread past its limit is abandoned until it ends, and then counted as late."""
    PrometheusSink(registry).attach(asyncframe.manager)
    sleep = background_task(name="stuck", timeout=1.0)(asyncframe.clock.sleep)
    task_id = sleep(3.0)
    await asyncframe.clock.run_for(2.0)
    assert scraped(registry)["asyncframe_pool_threads_abandoned"] == 1.0
    await asyncframe.clock.run_for(2.0)
    found = scraped(registry)
    assert found["asyncframe_pool_threads_abandoned"] == 0.0
    assert of(found, "stuck") == {
        "tasks_submitted_total": 1.0,
        'tasks_ended_total{status="timeout"}': 1.0,
        "late_results_total": 1.0,
        "task_wait_seconds_count": 1.0,
        "task_run_seconds_count": 1.0,
        "task_run_seconds_sum": 1.0,
    }
    with pytest.raises(
        TaskTimeoutError, match=r"^task \'\w+\' \(stuck\) ran past its time limit of 1 s$"
    ):
        await asyncframe.completed(task_id)


UNCOUNTED = {
    "started": "the end of a task tells how long it waited",
    "progress": "a task may report any number of times",
    "evicted": "a gauge's figure has it, and a store need not read what it removes",
}
"""Kinds of events that are not counted, and why."""


def test_every_kind_of_event(registry: CollectorRegistry) -> None:
    """Each kind of event but the ends has a counter of its own, or a reason why not."""
    counted = set(Metrics(registry, BUCKETS).events)
    assert counted | UNCOUNTED.keys() | END_KINDS == set(EVENT_KINDS)
    assert not counted & UNCOUNTED.keys()


# -- gauges


async def test_gauges_are_read_at_scrape(registry: CollectorRegistry) -> None:
    """Pending, delayed and running tasks, threads and refusals are those of the moment."""
    go_on = threading.Event()
    async with setup_async_framework(
        None, max_workers=1, queue_size=3, telemetry=[PrometheusSink(registry)]
    ):
        manager = get_task_manager()
        running = asyncio.Event()
        loop = asyncio.get_running_loop()

        def block() -> None:
            loop.call_soon_threadsafe(running.set)
            assert go_on.wait(PATIENCE)

        first = await manager.submit(block)
        await asyncio.wait_for(running.wait(), PATIENCE)
        waiting = [await manager.submit(int) for _ in range(2)]
        await manager.submit(int, delay=3_600)
        with pytest.raises(
            QueueFullError,
            match=r"^the task queue is full: 3 tasks are waiting; try again in 1 s, ",
        ):
            await manager.submit(int)
        found = scraped(registry)
        go_on.set()
        await asyncio.gather(*map(manager.get_result, [first, *waiting]))
        manager.cleanup_completed_tasks(0)
        later = scraped(registry)
    assert {series: value for series, value in found.items() if "{" not in series} == {
        "asyncframe_tasks_pending": 3.0,
        "asyncframe_tasks_delayed": 1.0,
        "asyncframe_tasks_running": 1.0,
        "asyncframe_tasks_pending_limit": 3.0,
        "asyncframe_tasks_rejected_total": 1.0,
        "asyncframe_tasks_evicted_total": 0.0,
        "asyncframe_pool_threads_busy": 1.0,
        "asyncframe_pool_threads_limit": 1.0,
        "asyncframe_pool_threads_abandoned": 0.0,
        "asyncframe_pool_degraded": 0.0,
        "asyncframe_loop_blocks_total": 0.0,
        "asyncframe_schedules": float(found["asyncframe_schedules"]),
        "asyncframe_schedule_runs_skipped_total": 0.0,
    }
    assert later["asyncframe_tasks_pending"] == 1.0
    assert later["asyncframe_tasks_evicted_total"] == 3.0


async def test_schedules(
    registry: CollectorRegistry, task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """Each schedule tells when it has last run and is due next, and whether it is paused."""

    def read(figure: str) -> float | None:
        return registry.get_sample_value(f"asyncframe_schedule_{figure}", {"name": "tick"})

    def times() -> list[float | None]:
        read_at = [read("last_run_timestamp_seconds"), read("next_run_timestamp_seconds")]
        return [None if one is None else round(one - began, 3) for one in read_at]

    async with setup_async_framework(None, telemetry=[PrometheusSink(registry)]):
        began = task_clock.time()

        @scheduled_task(every=60.0, name="tick")
        async def tick() -> None:
            """Do nothing."""

        assert (times(), read("paused")) == ([None, 60.0], 0.0)
        await task_clock.run_for(90.0)
        assert (times(), read("paused")) == ([60.0, 120.0], 0.0)
        await task_manager.schedules.pause("tick")
        assert (times(), read("paused")) == ([60.0, None], 1.0)
        del tick


async def test_a_stopped_framework_leaves_its_counts(registry: CollectorRegistry) -> None:
    """Once it is detached it has no gauges, and what it counted is kept and added to."""
    for _ in range(2):
        async with setup_async_framework(
            None, queue_size=1, telemetry=[PrometheusSink(registry)], graceful_shutdown_timeout=0
        ):
            await get_task_manager().submit(int, delay=60, task_id="delayed")
            with pytest.raises(
                QueueFullError,
                match=r"^the task queue is full: 1 tasks are waiting; try again in 1 s, ",
            ):
                await get_task_manager().submit(int)
    found = scraped(registry)
    assert found["asyncframe_tasks_rejected_total"] == 2.0
    assert "asyncframe_tasks_pending" not in found
    assert of(found, "builtins.int") == {
        "tasks_submitted_total": 2.0,
        'tasks_ended_total{status="cancelled"}': 2.0,
    }


async def test_a_framework_that_nobody_detached(registry: CollectorRegistry) -> None:
    """A framework that has stopped is left out, also if it was attached by hand."""
    async with setup_async_framework(None):
        PrometheusSink(registry).attach(get_task_manager())
        assert scraped(registry)["asyncframe_tasks_pending"] == 0.0
    assert "asyncframe_tasks_pending" not in scraped(registry)


async def test_several_apps_add_up(registry: CollectorRegistry) -> None:
    """The gauges of two frameworks are added, but for what they have alike."""
    sink, kept = PrometheusSink(registry), scheduled_task(every=60.0)(lambda: None)
    async with setup_async_framework(None, max_workers=2, telemetry=[sink]):
        async with setup_async_framework(None, max_workers=3, telemetry=[sink]):
            assert scraped(registry)["asyncframe_pool_threads_limit"] == 5.0
            two = scraped(registry)["asyncframe_schedules"]
        assert scraped(registry)["asyncframe_pool_threads_limit"] == 2.0
        assert scraped(registry)["asyncframe_schedules"] == two >= 1
    del kept


def test_attached_twice(registry: CollectorRegistry, task_manager: TaskManager) -> None:
    """A manager that two sinks on one registry are attached to is counted once, until both go."""
    first, second = (PrometheusSink(registry).attach(task_manager) for _ in range(2))
    for detach, counted in ((None, 1.0), (first, 2.0), (first, 3.0), (second, 3.0)):
        if detach is not None:
            detach()
        task_manager.submit_nowait(int)
        assert of(scraped(registry), "builtins.int")["tasks_submitted_total"] == counted
    assert "asyncframe_tasks_pending" not in scraped(registry)


# -- names


def test_too_many_names(registry: CollectorRegistry, task_manager: TaskManager) -> None:
    """Names beyond the limit are counted together as "other", and known ones still by name."""
    PrometheusSink(registry, max_names=2).attach(task_manager)
    for number in (1, 2, 3, 4, 1, 3):
        named(f"task {number}", int)()
    found = scraped(registry)
    counted = {name: of(found, name) for name in ("task 1", "task 2", "task 3", "other")}
    assert {name: its.get("tasks_submitted_total") for name, its in counted.items()} == {
        "task 1": 2.0,
        "task 2": 1.0,
        "task 3": None,
        "other": 3.0,
    }


def test_a_name_that_needs_escaping(registry: CollectorRegistry, task_manager: TaskManager) -> None:
    """A name with quotes and a backslash is still one label."""
    PrometheusSink(registry).attach(task_manager)
    named('say "a\\b"', int)()
    escaped = r'asyncframe_tasks_submitted_total{name="say \"a\\b\""}'
    assert scraped(registry)[escaped] == 1.0


# -- setting up


def test_bad_parameters() -> None:
    """A parameter out of range is refused by name, value and range."""
    refused: list[tuple[dict[str, Any], Told]] = [
        ({"registry": 5}, (TypeError, "registry must be a CollectorRegistry or None, not 5")),
        ({"buckets": 5}, (TypeError, "buckets must be a list of numbers above 0, not 5")),
        ({"buckets": []}, (TypeError, "buckets must be a list of numbers above 0, not []")),
        ({"buckets": [0]}, (ValueError, "buckets must be a number above 0, not 0")),
        ({"buckets": [2, 1]}, (ValueError, "buckets must be in ascending order, not [2, 1]")),
        ({"max_names": 0}, (ValueError, "max_names must be a whole number of at least 1, not 0")),
        (
            {"refresh_interval": 0},
            (ValueError, "refresh_interval must be a number above 0 or a timedelta, not 0"),
        ),
    ]
    told = [
        told_by(PrometheusSink, **{"registry": CollectorRegistry(), **given})
        for given, _ in refused
    ]
    assert told == [expected for _, expected in refused]


def test_differing_sinks(registry: CollectorRegistry) -> None:
    """A second sink on a registry must have the buckets and names of the first."""
    PrometheusSink(registry, buckets=[1, 2])
    PrometheusSink(registry, buckets=[1.0, 2.0])
    message = (
        "buckets must be (1.0, 2.0), as an earlier PrometheusSink has on this registry, "
        "not (3.0,): use the same everywhere, or another registry"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PrometheusSink(registry, buckets=[3])


@pytest.mark.extended("processes")
def test_without_the_extra() -> None:
    """Without prometheus_client the import says which command installs it."""
    code = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'prometheus_client' else real(name)\n"
        "try:\n import framework.telemetry.prometheus\n"
        "except ImportError as error: print(error)"
    )
    assert python("-c", code).stdout == (
        "metrics for Prometheus need prometheus_client: install the extra 'metrics' of asyncframe\n"
    )
