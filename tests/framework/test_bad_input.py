"""Every parameter out of range is refused where it is given, by name, value and range."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from framework import (
    TaskManager,
    ThreadPoolExecutorEnhanced,
    background_task,
    current_task,
    scheduled_task,
    setup_async_framework,
)

NAN = math.nan
WHOLE_1 = "a whole number of at least 1"
WHOLE_0 = "a whole number of at least 0"
ABOVE_0 = "a number above 0"
AT_LEAST_0 = "a number at least 0"

Case = tuple[str, Any, type[Exception], str]


def cases(parameter: str, allowed: str, *values: Any) -> list[Case]:
    """Return one case for each bad value: a TypeError for a bad type, else a ValueError."""
    good = int if "whole" in allowed else (int, float)
    return [
        (
            parameter,
            value,
            ValueError if isinstance(value, good) and not isinstance(value, bool) else TypeError,
            allowed,
        )
        for value in values
    ]


def bad(*groups: list[Case]) -> Any:
    """Parametrise a test over cases."""
    every = [case for group in groups for case in group]
    ids = [f"{parameter}-{index}" for index, (parameter, *_) in enumerate(every)]
    return pytest.mark.parametrize(("parameter", "value", "error", "allowed"), every, ids=ids)


def refuses(
    call: Callable[..., object], parameter: str, value: Any, error: type[Exception], allowed: str
) -> None:
    """See that ``call(parameter=value)`` says what was given and what is allowed."""
    message = f"^{parameter} must be {allowed}, not {re.escape(repr(value))}$"
    with pytest.raises(error, match=message):
        call(**{parameter: value})


# -- setting up


@bad(
    cases("max_workers", WHOLE_1, 0, -1, 1.5, NAN, True, "4", [4]),
    cases("graceful_shutdown_timeout", AT_LEAST_0, -1, -math.inf, NAN, True, "30", None),
    cases("task_timeout", ABOVE_0, 0, -1, NAN, True, "30"),
    cases("queue_size", WHOLE_1, 0, -1, 1.5, math.inf, True, "10", None),
    cases("result_ttl", ABOVE_0, 0, -1, NAN, False, "1", None),
    cases("max_finished_tasks", WHOLE_0, -1, 0.5, NAN, True, "10", None),
    cases("cleanup_interval", ABOVE_0, 0, -1, NAN, True, "60", None),
)
def test_setup(parameter: str, value: Any, error: type[Exception], allowed: str) -> None:
    """`setup_async_framework` refuses a bad number at the call and not on entering."""
    refuses(lambda **given: setup_async_framework(None, **given), parameter, value, error, allowed)


@pytest.mark.parametrize("app", ["app", 5, object(), setup_async_framework])
def test_setup_app(app: Any) -> None:
    """Something that is not an app is refused at the call."""
    shown = re.escape(repr(app)[:70])
    with pytest.raises(
        TypeError, match=f"^app must be a FastAPI or Starlette app, or None, not {shown}"
    ):
        setup_async_framework(app)


@pytest.mark.parametrize("executor", ["pool", 5, object])
def test_setup_executor(executor: Any) -> None:
    """An executor that is none of ours is refused at the call."""
    shown = re.escape(repr(executor))
    with pytest.raises(
        TypeError,
        match=f"^executor must be a ThreadPoolExecutorEnhanced or None, not {shown}$",
    ):
        setup_async_framework(None, executor=executor)


def test_setup_executor_and_workers() -> None:
    """An executor beside a number of workers is refused, since it has its own."""
    with (
        ThreadPoolExecutorEnhanced(max_workers=1) as pool,
        pytest.raises(
            ValueError,
            match=r"^max_workers is set by the executor: pass only one of the two, "
            r"not max_workers=2 and executor$",
        ),
    ):
        setup_async_framework(None, executor=pool, max_workers=2)


@pytest.mark.parametrize(
    ("parameter", "lacking"),
    [
        ("clock", "monotonic, time, call_at, wait"),
        ("store", "put, get, list, remove"),
        ("engine", "start"),
    ],
)
def test_setup_parts(parameter: str, lacking: str) -> None:
    """A part that does not do what its protocol says is refused with what it lacks."""
    with pytest.raises(
        TypeError,
        match=f"^{parameter} must have the methods of framework.protocols, but 5 lacks {lacking}",
    ):
        setup_async_framework(None, **{parameter: 5})  # type: ignore[arg-type]  # the point


class NoSink:
    """Has no method to attach it with."""

    def __repr__(self) -> str:
        return "NoSink()"


OBJECTS = "must be a list of objects with a method attach(manager), such as telemetry="


@pytest.mark.parametrize(
    ("telemetry", "message"),
    [
        (NoSink(), "must be a list, such as telemetry=[PrometheusSink()], not NoSink()"),
        (None, "must be a list, such as telemetry=[PrometheusSink()], not None"),
        ([NoSink()], f"{OBJECTS}[PrometheusSink()]; NoSink() has none"),
        ([NoSink], f"{OBJECTS}[PrometheusSink()]; {NoSink!r} has none"),
    ],
)
def test_setup_telemetry(telemetry: Any, message: str) -> None:
    """Telemetry that is no list of sinks is refused with an example of one."""
    with pytest.raises(TypeError, match=f"^telemetry {re.escape(message)}$"):
        setup_async_framework(None, telemetry=telemetry)


@pytest.mark.parametrize("parameter", ["result_ttl", "cleanup_interval", "task_timeout"])
async def test_setup_takes_infinity(parameter: str) -> None:
    """Where no bound makes sense, infinity is one."""
    async with setup_async_framework(None, **{parameter: math.inf}):  # type: ignore[arg-type]  # a number
        assert current_task() is None


# -- the pool


@bad(
    cases("max_workers", WHOLE_1, 1.5, NAN, True, "4", [4]),
    cases("task_timeout", ABOVE_0, 0, -1, NAN, True, "30"),
    cases("queue_size", WHOLE_1, 0, -1, 1.5, math.inf, True, "10"),
    cases("thread_name_prefix", "a string", None, 5, b"x"),
)
def test_pool(parameter: str, value: Any, error: type[Exception], allowed: str) -> None:
    """`ThreadPoolExecutorEnhanced` refuses a bad parameter when it is made."""
    if allowed == "a string":
        error = TypeError
    refuses(ThreadPoolExecutorEnhanced, parameter, value, error, allowed)


@pytest.mark.parametrize("value", [0, -1, False])
def test_pool_without_workers(value: int) -> None:
    """A pool without threads is refused with the standard library's message."""
    with pytest.raises(ValueError, match=r"^max_workers must be greater than 0$"):
        ThreadPoolExecutorEnhanced(max_workers=value)


def test_pool_initializer() -> None:
    """An initializer that is no function is refused when the pool is made."""
    with pytest.raises(TypeError, match=r"^initializer must be a callable$"):
        ThreadPoolExecutorEnhanced(initializer=5)  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize("value", [5, "ab", None])
def test_pool_initargs(value: Any) -> None:
    """Arguments of an initializer that are no tuple or list are refused, not spread."""
    shown = re.escape(repr(value))
    with pytest.raises(TypeError, match=f"^initargs must be a tuple or list, not {shown}$"):
        ThreadPoolExecutorEnhanced(initializer=print, initargs=value)


@bad(cases("timeout", AT_LEAST_0, -1, NAN, True, "1"))
def test_pool_shutdown(parameter: str, value: Any, error: type[Exception], allowed: str) -> None:
    """`shutdown` refuses a bad patience and leaves the pool as it was."""
    with ThreadPoolExecutorEnhanced(max_workers=1) as pool:
        refuses(pool.shutdown, parameter, value, error, allowed)

        assert pool.submit(int).result() == 0


# -- submitting


@bad(
    cases("timeout", ABOVE_0, 0, -1, NAN, True, "5"),
    cases("delay", AT_LEAST_0, -1, NAN, math.inf, True, "5", None),
)
def test_submit_number(
    task_manager: TaskManager, parameter: str, value: Any, error: type[Exception], allowed: str
) -> None:
    """`submit_nowait` refuses a bad number, and there is no task."""
    refuses(
        lambda **given: task_manager.submit_nowait(int, **given), parameter, value, error, allowed
    )

    assert task_manager.get_stats()["submitted"] == 0


@pytest.mark.parametrize(
    ("parameter", "value", "allowed"),
    [
        ("description", 5, "a string"),
        ("description", b"x", "a string"),
        ("task_id", 5, "a string"),
        ("task_id", b"x", "a string"),
        ("on_complete", "hook", "a function of the task or None"),
        ("on_error", 5, "a function of the task, 'log' or 'silent'"),
    ],
)
def test_submit_type(task_manager: TaskManager, parameter: str, value: Any, allowed: str) -> None:
    """`submit_nowait` refuses an option of a wrong type."""
    refuses(
        lambda **given: task_manager.submit_nowait(int, **given),
        parameter,
        value,
        TypeError,
        allowed,
    )


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
async def test_submit_wait(task_manager: TaskManager, value: Any) -> None:
    """`wait` is True or False and nothing that looks like it, and there is no task."""
    with pytest.raises(TypeError, match=f"^wait must be True or False, not {value!r}$"):
        await task_manager.submit(int, wait=value)

    assert task_manager.get_stats()["submitted"] == 0


@pytest.mark.parametrize("value", ["", "x" * 201, "a\nb", "\x1b[31mred", "\u2028", "\ud800"])
def test_submit_id(task_manager: TaskManager, value: str) -> None:
    """An id that is empty, too long or not printable is refused, also by `.options`."""
    with pytest.raises(ValueError, match=r"^task_id must have 1 to 200 characters, all of them "):
        task_manager.submit_nowait(int, task_id=value)
    with pytest.raises(ValueError, match=r"^task_id must have 1 to 200 characters, all of them "):
        background_task(lambda: None).options(task_id=value)

    assert task_manager.get_stats()["submitted"] == 0


def test_submit_id_in_use(task_manager: TaskManager) -> None:
    """An id that a living or a finished task has is refused."""
    task_manager.submit_nowait(int, task_id="mine")
    task_manager.wait_result("mine")

    with pytest.raises(
        ValueError, match=r"^task_id must be one that no task has, not 'mine': choose another, or "
    ):
        task_manager.submit_nowait(int, task_id="mine")


# -- asking


@bad(cases("timeout", AT_LEAST_0, -1, NAN, True, "5"))
async def test_get_result(
    task_manager: TaskManager, parameter: str, value: Any, error: type[Exception], allowed: str
) -> None:
    """`get_result` refuses a bad patience."""
    task_id = await task_manager.submit(int)
    message = f"^timeout must be {allowed}, not {re.escape(repr(value))}$"
    with pytest.raises(error, match=message):
        await task_manager.get_result(task_id, timeout=value)


@bad(cases("timeout", AT_LEAST_0, -1, NAN, True, "5"))
def test_wait_result(
    task_manager: TaskManager, parameter: str, value: Any, error: type[Exception], allowed: str
) -> None:
    """`wait_result` refuses a bad patience."""
    task_id = task_manager.submit_nowait(int)
    refuses(
        lambda **given: task_manager.wait_result(task_id, **given),
        parameter,
        value,
        error,
        allowed,
    )


async def test_no_patience(task_manager: TaskManager) -> None:
    """With no patience at all a result that is there is given all the same."""
    task_id = await task_manager.submit(int)
    await task_manager.get_result(task_id)

    assert await task_manager.get_result(task_id, timeout=0) == 0


@bad(cases("max_age", AT_LEAST_0, -1, NAN, True, "5", None))
async def test_cleanup(
    task_manager: TaskManager, parameter: str, value: Any, error: type[Exception], allowed: str
) -> None:
    """`cleanup_completed_tasks` refuses a bad age, and nothing is forgotten."""
    await task_manager.submit(int, wait=True)

    refuses(task_manager.cleanup_completed_tasks, parameter, value, error, allowed)

    assert len(task_manager.get_all_tasks()) == 1


async def test_cleanup_of_all_ages(task_manager: TaskManager) -> None:
    """An infinite age forgets nothing."""
    await task_manager.submit(int, wait=True)

    assert task_manager.cleanup_completed_tasks(math.inf) == 0


@pytest.mark.parametrize("status", ["done", "", None, 5, "PENDING"])
def test_status(task_manager: TaskManager, status: Any) -> None:
    """A word that is no status is refused with those that are."""
    with pytest.raises(
        ValueError,
        match=r"^status must be 'pending' or 'running' or 'completed' or 'failed' or 'timeout' or "
        rf"'cancelled' or 'interrupted', not {re.escape(repr(status))}$",
    ):
        task_manager.get_tasks_by_status(status)


@pytest.mark.parametrize("sink", [None, "sink", 5])
def test_subscribe(task_manager: TaskManager, sink: Any) -> None:
    """A sink that is no function is refused."""
    with pytest.raises(
        TypeError, match=f"^sink must be a function that takes an event, not {sink!r}$"
    ):
        task_manager.subscribe(sink)


@pytest.mark.parametrize(
    ("kinds", "error", "message"),
    [
        ("completed", TypeError, "kinds must be a collection of strings, not 'completed'"),
        (5, TypeError, "kinds must be a collection of strings, not 5"),
        (["done"], ValueError, ", evicted, not 'done'"),
        ([None], ValueError, ", evicted, not None"),
    ],
)
def test_kinds_of_events(
    task_manager: TaskManager, kinds: Any, error: type[Exception], message: str
) -> None:
    """Kinds that are none, or no collection, are refused; the message lists those there are."""
    with pytest.raises(error, match=re.escape(message)):
        task_manager.subscribe(print, kinds=kinds)


# -- inside a task


@bad(
    cases("progress", "a number at least 0 and at most 1", -0.1, 1.1, NAN, True, "0.5"),
)
async def test_progress(
    task_manager: TaskManager, parameter: str, value: Any, error: type[Exception], allowed: str
) -> None:
    """A share done that is none is refused inside the task."""

    def body() -> None:
        task = current_task()
        assert task is not None
        refuses(task.report_progress, parameter, value, error, allowed)

    await task_manager.submit(body, wait=True)


async def test_snapshot_is_not_live(task_manager: TaskManager) -> None:
    """A snapshot cannot report progress, and says what can."""
    task_id = await task_manager.submit(int)
    task = await task_manager.get_task(task_id)
    assert task is not None

    with pytest.raises(
        RuntimeError,
        match=r"^report_progress\(\) was called on a snapshot of the task: inside the task, call "
        r"it on current_task\(\)$",
    ):
        task.report_progress(0.5)


# -- options of decorators


@bad(
    cases("timeout", ABOVE_0, 0, -1, NAN, True, "5"),
    cases("delay", AT_LEAST_0, -1, NAN, math.inf, True, "5"),
)
def test_options(parameter: str, value: Any, error: type[Exception], allowed: str) -> None:
    """`options` refuses what the decorator would refuse."""
    refuses(background_task(int).options, parameter, value, error, allowed)


@pytest.mark.parametrize("parameter", ["description", "name"])
def test_text_options(parameter: str) -> None:
    """A name and a description are texts."""
    refuses(background_task, parameter, 5, TypeError, "a string")


@bad(
    cases("every", f"{ABOVE_0} or a timedelta", 0, -1, NAN, math.inf, True, [60]),
)
def test_schedule(parameter: str, value: Any, error: type[Exception], allowed: str) -> None:
    """An interval that is none is refused at decoration."""
    refuses(scheduled_task, parameter, value, error, allowed)


@bad(
    cases("timeout", ABOVE_0, 0, -1, NAN, "1"),
    cases("cron", "a string", 5, ["0 3 * * *"]),
    cases("run_at_start", "True or False", "yes", 1.5),
    cases("each_process", "True or False", "yes"),
)
def test_options_of_a_schedule(
    parameter: str, value: Any, error: type[Exception], allowed: str
) -> None:
    """An option of a schedule that is none is refused at decoration."""
    error = error if parameter == "timeout" else TypeError
    refuses(partial(scheduled_task, 60), parameter, value, error, allowed)


def test_jitter_and_policy_of_a_schedule() -> None:
    """A jitter is a fraction, and a policy one of three words."""
    for jitter in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"^jitter must be a number at least 0 and at most 1,"):
            scheduled_task(60, jitter=jitter)
    with pytest.raises(ValueError, match=r"^missed must be 'skip' or 'once' or 'all', not 'ne"):
        scheduled_task(60, missed="never")  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "none of them"),
        ({"every": None}, "none of them"),
        ({"every": 60, "cron": "0 3 * * *"}, "every and cron"),
        ({"every": 60, "cron": "0 3 * * *", "at": "03:00"}, "every and cron and at"),
    ],
)
def test_exactly_one_time(given: dict[str, Any], what: str) -> None:
    """A schedule has an interval, an expression or a time of day, and not two of them."""
    message = (
        r"^scheduled_task needs exactly one of every, cron and at, as in @scheduled_task\(every="
        r"60\), @scheduled_task\(cron='0 3 \* \* \*'\) or @scheduled_task\(at='03:00'\), "
        f"not {what}$"
    )
    with pytest.raises(TypeError, match=message):
        scheduled_task(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 60, "tz": "UTC"}, ("tz is the time zone of cron, or of a time of day, and has "
         "no meaning with every")),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC), "tz": "UTC"}, ("tz is the time zone of cron, or "
         "of a time of day, and has no meaning with at")),
        ({"cron": "0 3 * * *", "jitter": 0.5}, ("jitter is a fraction of every, and goes with "
         "nothing else, not with cron")),
    ],
)  # fmt: skip
def test_what_has_no_meaning(given: dict[str, Any], message: str) -> None:
    """An option that means nothing with the others is refused."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        scheduled_task(**given)
