"""Every parameter out of range is refused where it is given, by name, value and range."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from framework import (
    TaskManager,
    ThreadPoolExecutorEnhanced,
    async_task,
    background_task,
    current_task,
    retry_task,
    scheduled_task,
    setup_async_framework,
    throttled_task,
)
from pytest_asyncframe.probe import Probe
from tests.framework.refusing import Told, told_by

NAN = math.nan
WHOLE_1 = "a whole number of at least 1"
WHOLE_0 = "a whole number of at least 0"
ABOVE_0 = "a number above 0"
AT_LEAST_0 = "a number at least 0"
LIMIT = f"{ABOVE_0} or a timedelta"
DELAY = f"{AT_LEAST_0} or a timedelta"
ID = "1 to 200 characters, all of them printable"
UNREACHABLE = (
    "have no '/' and be none of '.', '..', 'dashboard', 'stats', so that a URL can end with it"
)
CURE = "choose another, such as 'order-7', or omit it for a random one"

Case = tuple[str, Any, type[Exception], str]


def cases(parameter: str, allowed: str, *values: Any) -> list[Case]:
    """Return one case for each bad value: a TypeError for a bad type, else a ValueError."""
    if not allowed.startswith(("a number", "a whole number")):
        return [(parameter, value, TypeError, allowed) for value in values]
    good = int if "whole" in allowed else (int, float, timedelta)
    return [
        (
            parameter,
            value,
            ValueError if isinstance(value, good) and not isinstance(value, bool) else TypeError,
            allowed,
        )
        for value in values
    ]


def refuse(call: Callable[..., object], *groups: list[Case]) -> None:
    """See that ``call(parameter=value)`` says of each case what was given and what is allowed."""
    wrong = []
    for parameter, value, error, allowed in itertools.chain(*groups):
        told = told_by(call, **{parameter: value})
        if told != (error, f"{parameter} must be {allowed}, not {value!r}"):
            wrong.append((parameter, value, told))
    assert not wrong, wrong


def refuse_with(call: Callable[[Any], object], expected: list[tuple[Any, Told]]) -> None:
    """See that ``call(value)`` raises what is expected of each value."""
    told = [(value, told_by(partial(call, value))) for value, _ in expected]
    wrong = [one for one, (_, wanted) in zip(told, expected, strict=True) if one[1] != wanted]
    assert not wrong, wrong


# -- setting up


def test_setup() -> None:
    """`setup_async_framework` refuses a bad number at the call and not on entering."""
    refuse(
        partial(setup_async_framework, None),
        cases("max_workers", WHOLE_0, -1, 1.5, NAN, True, "4", [4]),
        cases("graceful_shutdown_timeout", DELAY, -1, -math.inf, NAN, True, "30", None),
        cases("task_timeout", LIMIT, 0, -1, NAN, True, "30"),
        cases("show_arguments", "True or False", None, 1, "number", ("number",)),
        cases("queue_size", WHOLE_1, 0, -1, 1.5, math.inf, True, "10", None),
        cases("result_ttl", LIMIT, 0, -1, NAN, False, "1", None),
        cases("max_finished_tasks", WHOLE_0, -1, 0.5, NAN, True, "10", None),
        cases("cleanup_interval", LIMIT, 0, -1, NAN, True, "60", None),
        cases("executor", "a ThreadPoolExecutorEnhanced or None", "pool", 5, object),
    )


def test_setup_unknown() -> None:
    """A setting that there is not is refused with those that there are, and with the nearest."""
    error, text = told_by(setup_async_framework, workers=3)
    assert error is TypeError
    assert text.startswith(
        "setup_async_framework() got an unexpected keyword argument 'workers'; its settings are "
        "max_workers, graceful_shutdown_timeout, task_timeout, "
    )
    assert text.endswith(", telemetry, slow_loop; did you mean 'max_workers'?")


def test_setup_app() -> None:
    """Something that is not an app is refused at the call."""
    refuse_with(
        setup_async_framework,
        [
            (app, (TypeError, f"app must be a FastAPI or Starlette app, or None, not {app!r}"))
            for app in ("app", 5, object())
        ],
    )
    error, text = told_by(setup_async_framework, app=setup_async_framework)
    assert error is TypeError
    assert text.startswith("app must be a FastAPI or Starlette app, or None, not <function setup_")


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


def test_setup_parts() -> None:
    """A part that does not do what its protocol says is refused with what it lacks."""
    lacking = {
        "clock": "monotonic, time, call_at, wait",
        "store": "put, get, list, remove",
        "engine": "start",
    }
    for parameter, methods in lacking.items():
        error, text = told_by(partial(setup_async_framework, None), **{parameter: 5})
        assert error is TypeError
        assert text.startswith(
            f"{parameter} must have the methods of framework.protocols, but 5 lacks {methods}"
        )
        error, text = told_by(partial(setup_async_framework, None), **{parameter: Path})
        assert (error, text) == (
            TypeError,
            f"{parameter} must be an object, such as Path(...), not the class Path",
        )


class NoSink:
    """Has no method to attach it with."""

    def __repr__(self) -> str:
        return "NoSink()"


def test_setup_telemetry() -> None:
    """Telemetry that is no list of sinks is refused with an example of one."""
    a_list = "telemetry must be a list, such as telemetry=[PrometheusSink()], not"
    objects = (
        "telemetry must be a list of objects with a method attach(manager), such as "
        "telemetry=[PrometheusSink()];"
    )
    refuse_with(
        lambda given: setup_async_framework(None, telemetry=given),
        [
            (NoSink(), (TypeError, f"{a_list} NoSink()")),
            (None, (TypeError, f"{a_list} None")),
            ([NoSink()], (TypeError, f"{objects} NoSink() has none")),
            ([NoSink], (TypeError, f"{objects} {NoSink!r} has none")),
        ],
    )


async def test_setup_takes_infinity() -> None:
    """Where no bound makes sense, infinity is one."""
    for parameter in ("result_ttl", "cleanup_interval", "task_timeout"):
        async with setup_async_framework(None, **{parameter: math.inf}):  # type: ignore[arg-type]  # a number
            assert current_task() is None


# -- the pool


def test_pool() -> None:
    """`ThreadPoolExecutorEnhanced` refuses a bad parameter when it is made."""
    refuse(
        ThreadPoolExecutorEnhanced,
        cases("max_workers", WHOLE_1, 1.5, NAN, True, "4", [4]),
        cases("task_timeout", LIMIT, 0, -1, NAN, True, "30"),
        cases("queue_size", WHOLE_1, 0, -1, 1.5, math.inf, True, "10"),
        cases("thread_name_prefix", "a string", None, 5, b"x"),
    )
    refuse(
        # They are refused, and not spread.
        partial(ThreadPoolExecutorEnhanced, initializer=print),
        cases("initargs", "a tuple or list", 5, "ab", None),
    )


def test_pool_in_the_words_of_the_standard_library() -> None:
    """No threads, and an initializer that is no function, are refused as the library does."""
    none = (ValueError, "max_workers must be greater than 0")
    refuse_with(ThreadPoolExecutorEnhanced, [(0, none), (-1, none), (False, none)])
    assert told_by(ThreadPoolExecutorEnhanced, initializer=5) == (
        TypeError,
        "initializer must be a callable",
    )


def test_pool_shutdown() -> None:
    """`shutdown` refuses a bad patience and leaves the pool as it was."""
    with ThreadPoolExecutorEnhanced(max_workers=1) as pool:
        refuse(pool.shutdown, cases("timeout", AT_LEAST_0, -1, NAN, True, "1"))

        hour = timedelta(hours=1)
        assert told_by(pool.shutdown, timeout=hour) == (
            TypeError,
            f"timeout must be {AT_LEAST_0}, not {hour!r}; for seconds, use .total_seconds()",
        )
        assert pool.submit(int).result() == 0


# -- submitting


async def test_submit(task_manager: TaskManager) -> None:
    """`submit_nowait` refuses a bad option, and there is no task."""
    refuse(
        partial(task_manager.submit_nowait, int),
        cases("timeout", LIMIT, 0, -1, NAN, True, "5", timedelta(0)),
        cases("delay", DELAY, -1, NAN, math.inf, True, "5", None),
        cases("description", "a string", 5, b"x"),
        cases("task_id", "a string", 5, b"x"),
        cases("on_complete", "a function of the task or None", "hook"),
        cases("on_error", "a function of the task, 'log' or 'silent'", 5),
    )
    for value in (1, 0, None, "yes"):
        with pytest.raises(TypeError, match=f"^wait must be True or False, not {value!r}$"):
            await task_manager.submit(int, wait=value)  # type: ignore[call-overload]  # the point

    assert task_manager.get_stats()["submitted"] == 0


def test_submit_id(task_manager: TaskManager) -> None:
    """An id that is too long or not printable, that no URL has, or that a task has, is refused."""
    for call in (
        lambda value: task_manager.submit_nowait(int, task_id=value),
        lambda value: background_task(lambda: None).options(task_id=value),
    ):
        for value in ("", "x" * 201, "a\nb", "\x1b[31mred", "\u2028", "i\ud800d"):
            error, text = told_by(partial(call, value))
            assert error is ValueError
            if len(value) < 200:
                length = f"({len(value)} characters): "
                assert text.startswith(f"task_id must have {ID}, not {value!r} {length}")
            assert text.startswith(f"task_id must have {ID}, not ")
        for value in ("a/b", "/", ".", "..", "stats", "dashboard"):
            error, text = told_by(partial(call, value))
            assert error is ValueError
            assert text == f"task_id must {UNREACHABLE}, not {value!r}: {CURE}"

    assert task_manager.get_stats()["submitted"] == 0
    task_manager.submit_nowait(int, task_id="mine")
    task_manager.wait_result("mine")
    with pytest.raises(
        ValueError, match=r"^task_id must be one that no task has, not 'mine': choose another, or "
    ):
        task_manager.submit_nowait(int, task_id="mine")


def test_what_a_task_waits_for(task_manager: TaskManager) -> None:
    """What is no id of a task, or of the task itself, is refused; an empty list waits for none."""
    first = task_manager.submit_nowait(int, task_id="first")
    copy: Any = background_task(lambda: None).options
    wanted = "after must be the id of a task, or a list of ids, not"
    for value, error, text in (
        (5, TypeError, f"{wanted} int"),
        ([first, None], TypeError, f"{wanted} one of NoneType"),
        (task_manager, TypeError, f"{wanted} TaskManager"),
        ("", ValueError, f"{wanted} ''"),
        (["a", ""], ValueError, f"{wanted} ''"),
        ([str(one) for one in range(1_001)], ValueError, "after must have at most 1,000 ids, not "),
    ):
        for call in (partial(task_manager.submit_nowait, int), copy):
            found, told = told_by(partial(call, after=value))
            assert (found, told[: len(text)]) == (error, text)
    told = told_by(partial(task_manager.submit_nowait, int, after="me", task_id="me"))[1]
    assert told == "builtins.int: a task cannot wait for itself: after has its own task_id"
    told = told_by(partial(copy, after_failure="run"))[1]
    assert ": 'after_failure' has no effect without 'after', the tasks that it waits " in told
    told = told_by(partial(copy, after=first, after_failure="stop"))[1]
    assert told.startswith("after_failure must be 'cancel' or 'run', not 'stop'")
    with pytest.raises(LookupError, match=r"^builtins.int cannot wait for task 'nobody': no task "):
        task_manager.submit_nowait(int, after=[first, "nobody"])
    submit: Any = task_manager.submit_nowait
    nobody: Any
    for nobody in ([], (), None, {first}):
        assert task_manager.wait_result(submit(int, after=nobody)) == 0
    assert task_manager.get_stats()["submitted"] == 5


# -- asking


PATIENCE = cases("timeout", DELAY, -1, NAN, True, "5")


async def test_get_result(task_manager: TaskManager) -> None:
    """`get_result` refuses a bad patience; none at all gives what is there."""
    task_id = await task_manager.submit(int)
    told = []
    for _, value, _, _ in PATIENCE:
        with pytest.raises((TypeError, ValueError)) as caught:
            await task_manager.get_result(task_id, timeout=value)
        told.append((type(caught.value), str(caught.value)))
    assert told == [
        (error, f"timeout must be {DELAY}, not {value!r}") for _, value, error, _ in PATIENCE
    ]

    await task_manager.get_result(task_id)
    assert await task_manager.get_result(task_id, timeout=0) == 0


async def test_waiting_for_a_timedelta(asyncframe: Probe) -> None:
    """Every way to wait takes its timeout as a timedelta."""
    half, manager = timedelta(minutes=0.5), asyncframe.manager
    task_id = await manager.submit(asyncframe.clock.sleep, (600,))
    told = rf"^task {task_id} \(\S+\) is running after 30 s of waiting; it goes on$"
    with pytest.raises(TimeoutError, match=told):
        await manager.get_result(task_id, half)
    with pytest.raises(TimeoutError, match=told):
        await manager.gather([task_id], timeout=half)
    assert (await manager.wait(task_id, timeout=half)).status == "running"
    with pytest.raises(TimeoutError, match=told):
        await asyncio.to_thread(manager.wait_result, task_id, half)
    assert asyncframe.clock.monotonic() == 120
    await manager.get_result(task_id)
    assert manager.cleanup_completed_tasks(half) == 0


def test_wait_result(task_manager: TaskManager) -> None:
    """`wait_result` refuses a bad patience."""
    refuse(partial(task_manager.wait_result, task_manager.submit_nowait(int)), PATIENCE)


async def test_cleanup(task_manager: TaskManager) -> None:
    """A clean-up refuses a bad age, and forgets nothing by it, nor by an infinite one."""
    await task_manager.submit(int, wait=True)

    refuse(
        task_manager.cleanup_completed_tasks,
        cases("max_age", DELAY, -1, NAN, True, "5", None),
    )

    assert len(task_manager.get_all_tasks()) == 1
    assert task_manager.cleanup_completed_tasks(math.inf) == 0


def test_status(task_manager: TaskManager) -> None:
    """A word that is no status is refused with those that are."""
    known = (
        "'pending' or 'running' or 'completed' or 'failed' or 'timeout' or 'cancelled' or "
        "'interrupted'"
    )
    refuse_with(
        task_manager.get_tasks_by_status,
        [
            (status, (ValueError, f"status must be {known}, not {status!r}"))
            for status in ("done", "", None, 5, "PENDING")
        ],
    )


def test_subscribe(task_manager: TaskManager) -> None:
    """A sink that is no function is refused, and so are kinds that are none, with those there are.

    A lone text is no collection of kinds.
    """
    refuse(task_manager.subscribe, cases("sink", "a function that takes an event", None, "a", 5))
    refuse(
        partial(task_manager.subscribe, print),
        cases("kinds", "a collection of strings", "completed", 5),
    )
    for kind in ("done", None):
        error, text = told_by(task_manager.subscribe, sink=print, kinds=[kind])
        assert error is ValueError
        assert text.startswith("kinds must be among ")
        assert text.endswith(f", evicted, not {kind!r}")


# -- inside a task


async def test_progress(task_manager: TaskManager) -> None:
    """A share done that is none is refused inside the task, and any on a snapshot of it."""

    def body() -> None:
        task = current_task()
        assert task is not None
        share = "a number at least 0 and at most 1"
        refuse(task.report_progress, cases("progress", share, -0.1, 1.1, NAN, True, "0.5"))

    task_id = await task_manager.submit(body)
    await task_manager.get_result(task_id)
    task = await task_manager.get_task(task_id)
    assert task is not None

    with pytest.raises(
        RuntimeError,
        match=r"^report_progress\(\) was called on a snapshot of the task: inside the task, call "
        r"it on current_task\(\)$",
    ):
        task.report_progress(0.5)


# -- options of decorators


def test_timedelta() -> None:
    """Options in seconds take a timedelta, and one in place of which a moment is given says so."""
    half = timedelta(minutes=0.5)
    ways: tuple[tuple[Callable[..., Any], str], ...] = (
        (background_task, "timeout"),
        (background_task(int).options, "delay"),
        (retry_task, "retry_delay"),
        (retry_task, "max_delay"),
        (partial(throttled_task, rate_limit=1), "time_window"),
    )
    for call, name in ways:
        made = call(**{name: half})
        made = made if hasattr(made, "fn") else made(lambda: None)
        known = getattr(made, "__asyncframe_spec__", None) or made.__asyncframe_policy__
        assert known.options[name] == 30.0, name

    lifespan = setup_async_framework(
        graceful_shutdown_timeout=half,
        task_timeout=half,
        result_ttl=half,
        cleanup_interval=half,
        slow_loop=half,
    )
    settings = lifespan._settings
    found = (settings.task_timeout, settings.result_ttl, settings.cleanup_interval)
    ends = (settings.graceful_shutdown_timeout, settings.slow_loop)
    assert found + ends == (30.0,) * 5

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for name, wanted in (("delay", DELAY), ("timeout", LIMIT)):
        error, text = told_by(background_task(int).options, **{name: moment})
        assert error is TypeError
        assert text == (
            f"{name} must be {wanted}, not {moment!r}: for a moment, use {name}=moment - "
            "datetime.now(moment.tzinfo)"
        )


def test_options() -> None:
    """A decorator and its `options`, which have a delay as well, refuse the same."""
    both = (
        cases("timeout", LIMIT, 0, -1, NAN, True, "5", timedelta(0)),
        cases("description", "a string", 5),
        cases("name", "a string", 5),
    )
    refuse(background_task, *both)
    refuse(
        background_task(int).options,
        *both,
        cases("delay", DELAY, -1, NAN, math.inf, True, "5"),
    )


def send(to: str, urgent: bool = False, *, retry: int) -> None:
    """Do nothing."""


FITTING_KEYS: tuple[Callable[..., Any], ...] = (
    lambda to, retry: (to, retry),  # as send(to="a", retry=1)
    lambda to, *, retry: (to, retry),
    lambda urgent, **_: urgent,  # as send(to="a", urgent=True, retry=1)
    lambda **_: 1,
    lambda to, /, **_: to,
    lambda one, two, **_: (one, two),
)
OTHER_KEYS: tuple[Callable[..., Any], ...] = (
    lambda: 1,
    lambda to, urgent, retry, more: (to, urgent, retry, more),
    lambda to, /: to,
    str.upper,
)


def test_key_functions(task_manager: TaskManager) -> None:
    """A key function that fits no call is refused at decoration, with both signatures."""
    name = f"{__name__}.send"
    decorating: tuple[tuple[str, Callable[[Any], object]], ...] = (
        ("key", lambda key: throttled_task(rate_limit=1, key=key)(send)),
        ("key", lambda key: background_task(max_running=1, key=key)(send)),
        ("unique", lambda key: async_task(unique=key)(send)),
        ("unique", lambda key: background_task(send).options(unique=key)),
    )
    submitting: tuple[tuple[str, Callable[[Any], object]], ...] = (
        ("unique", lambda key: task_manager.submit_nowait(send, ("a",), {"retry": 1}, unique=key)),
    )
    for key in FITTING_KEYS:
        assert [told_by(way, key) for _, way in decorating] == [(None, "")] * 4
    for key in OTHER_KEYS:
        for option, way in decorating + submitting:
            error, text = told_by(way, key)
            assert error is TypeError
            assert text.startswith(f"the {option} function of {name} takes (")
            assert text.endswith(
                f"), but it is called with the arguments of {name}, which takes "
                "(to, urgent=False, *, retry)"
            )


def test_key_of_a_throttle() -> None:
    """A key that cannot be hashed is refused by the name of its function."""
    key: Callable[..., Any] = lambda of: [of]  # noqa: E731  # its type is the point
    call = throttled_task(rate_limit=1, key=key)(lambda of: of)
    error, text = told_by(call, 1)
    assert error is TypeError
    assert text == (
        f"the key of throttle {__name__}.test_key_of_a_throttle.<locals>.<lambda> must be "
        "hashable, not [1]: return a tuple"
    )


def test_schedule() -> None:
    """An interval or another option of a schedule that is none is refused at decoration."""
    refuse(
        scheduled_task,
        cases("every", f"{ABOVE_0} or a timedelta", 0, -1, NAN, math.inf, True, [60]),
    )
    refuse(
        partial(scheduled_task, 60),
        cases("timeout", LIMIT, 0, -1, NAN, "1"),
        cases("jitter", "a number at least 0 and at most 1", -0.1, 1.1),
        cases("cron", "a string", 5, ["0 3 * * *"]),
        cases("run_at_start", "True or False", "yes", 1.5),
        cases("each_process", "True or False", "yes"),
    )
    assert told_by(partial(scheduled_task, 60), missed="never") == (
        ValueError,
        "missed must be 'skip' or 'once' or 'all', not 'never'",
    )


def test_exactly_one_time() -> None:
    """A schedule has an interval, an expression or a time of day, and not two of them."""
    needs = (
        "scheduled_task needs exactly one of every, cron and at, as in @scheduled_task(every=60), "
        "@scheduled_task(cron='0 3 * * *') or @scheduled_task(at='03:00'), not "
    )
    refuse_with(
        lambda given: scheduled_task(**given),
        [
            ({}, (TypeError, f"{needs}none of them")),
            ({"every": None}, (TypeError, f"{needs}none of them")),
            ({"every": 60, "cron": "0 3 * * *"}, (TypeError, f"{needs}every and cron")),
            (
                {"every": 60, "cron": "0 3 * * *", "at": "03:00"},
                (TypeError, f"{needs}every and cron and at"),
            ),
        ],
    )


def test_what_has_no_meaning() -> None:
    """An option that means nothing with the others is refused."""
    tz = "tz is the time zone of cron, or of a time of day, and has no meaning with "
    jitter = "jitter is a fraction of every, and goes with nothing else, not with cron"
    refuse_with(
        lambda given: scheduled_task(**given),
        [
            ({"every": 60, "tz": "UTC"}, (ValueError, f"{tz}every")),
            ({"at": datetime(2026, 1, 1, tzinfo=UTC), "tz": "UTC"}, (ValueError, f"{tz}at")),
            ({"cron": "0 3 * * *", "jitter": 0.5}, (ValueError, jitter)),
        ],
    )
