"""Options of decorated functions, schedules called directly, and functions by name."""

from __future__ import annotations

import asyncio
import dis
import inspect
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from framework import (
    RateLimitExceededError,
    Task,
    TaskManager,
    TaskStatus,
    async_task,
    background_task,
    get_task_manager,
    retry_task,
    scheduled_task,
    throttled_task,
)
from framework._records.ids import TaskId
from framework._tasks.registry import find_function
from tests.framework.refusing import told_by
from tests.patience import PATIENCE
from tests.words import timeless


def test_throttle_options_give_a_window_of_its_own(task_manager: TaskManager) -> None:
    """A copy with another rate neither uses nor fills the original's window."""

    @throttled_task(rate_limit=1, time_window=60)
    def call() -> str:
        return "called"

    twice = call.options(rate_limit=2)
    assert [call(), twice(), twice()] == ["called"] * 3
    with pytest.raises(RateLimitExceededError) as refused:
        twice()
    assert refused.value.rate_limit == 2
    assert refused.value.time_window == 60


def test_retry_options_keep_what_is_left_out() -> None:
    """A copy with fewer retries keeps the delay of the original."""
    calls: list[int] = []

    @retry_task(max_retries=5, retry_delay=0.0)
    def fail() -> None:
        calls.append(1)
        raise ConnectionError

    with pytest.raises(ConnectionError, match=r"^$"):
        fail.options(max_retries=1)()
    assert len(calls) == 2


def test_an_unknown_option_is_told() -> None:
    """An option that does not exist raises TypeError, in the words of whoever wrote it."""

    def send() -> None:
        """Do nothing."""

    name = f"{__name__}.test_an_unknown_option_is_told.<locals>.send.options()"
    ends: dict[Any, str] = {
        throttled_task(rate_limit=1): "rate_limit, time_window, when_limited, key, shared",
        retry_task(): "max_retries, retry_delay, backoff, max_delay, jitter, exceptions",
        background_task(): "unique, on_duplicate, max_running, key",
        async_task(): "unique, on_duplicate, max_running, key",
    }
    wrong = []
    for decorate, end in ends.items():
        decorated: Any = decorate(send)
        unknown = told_by(decorated.options, rate=2)
        by_position = told_by(decorated.options, 2)
        begin = f"{name} got an unexpected keyword argument 'rate'; its options are "
        if unknown[0] is not TypeError or not (
            unknown[1].startswith(begin) and unknown[1].endswith(end)
        ):
            wrong.append(unknown)
        if by_position[0] is not TypeError or not by_position[1].startswith(
            f"{name} takes 0 positional"
        ):
            wrong.append(by_position)
    assert not wrong, wrong


def test_an_option_without_its_name_is_told() -> None:
    """An option given by position raises TypeError and is shown as it can be written."""
    given: list[tuple[Any, object, str]] = [
        (retry_task, 3, "retry_task(max_retries=3), not 3"),
        (retry_task, "often", "retry_task(max_retries=3), not 'often'"),
        (throttled_task, 7, "throttled_task(rate_limit=7), not 7"),
        (throttled_task, "5/minute", "throttled_task(rate_limit=5), not '5/minute'"),
        (background_task, 60, "background_task(timeout=60), not 60"),
        (background_task, 0.5, "background_task(timeout=30), not 0.5"),
        (async_task, "a report", "async_task(description='a report'), not 'a report'"),
    ]
    told = [told_by(decorate, value) for decorate, value, _ in given]
    assert told == [
        (TypeError, f"{decorate.__name__} takes its options by name, as in @{like}")
        for decorate, _, like in given
    ]


async def test_a_retry_on_a_loops_thread_is_told_in_a_note() -> None:
    """A sync function called on a loop's thread fails at once, and its error says why."""
    calls: list[int] = []

    @retry_task(max_retries=3, retry_delay=0.0)
    def fail() -> None:
        calls.append(1)
        raise ConnectionError

    with pytest.raises(ConnectionError) as caught:
        fail()
    assert len(calls) == 1
    assert caught.value.__notes__[0].startswith("not retried: retry_task would block the event")


async def test_an_error_that_takes_no_note_is_raised_all_the_same() -> None:
    """An exception class that refuses attributes is no obstacle to saying why."""

    class StubbornError(Exception):
        def add_note(self, _: str) -> None:
            raise AttributeError

    @retry_task(max_retries=3, retry_delay=0.0)
    def fail() -> None:
        raise StubbornError

    with pytest.raises(StubbornError, match=r"^$"):
        fail()


def test_hooks_of_a_copy_are_called(task_manager: TaskManager) -> None:
    """A copy with hooks calls them at the end of its tasks, in place of those that it had."""
    told: SimpleQueue[str] = SimpleQueue()

    def note(kind: str) -> Callable[[Task], None]:
        return lambda task: told.put(f"{kind} {task.status} {task.error!r}")

    @background_task
    def divide(number: int) -> float:
        return 1 / number

    watched = divide.options(on_complete=note("first"), on_error=note("error"))
    watched(1)
    assert told.get(timeout=PATIENCE) == "first completed None"
    watched.options(on_complete=note("second"))(1)
    assert told.get(timeout=PATIENCE) == "second completed None"
    watched(0)
    assert told.get(timeout=PATIENCE) == "error failed ZeroDivisionError('division by zero')"
    task_manager.submit_nowait(watched, (0,), on_error=note("other"))
    assert told.get(timeout=PATIENCE) == "other failed ZeroDivisionError('division by zero')"
    task_manager.submit_nowait(watched, (1,))
    assert told.get(timeout=PATIENCE) == "first completed None"
    assert task_manager.wait_result(divide(1)) == 1
    assert told.empty()


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_hooks_of_an_awaited_copy_are_called(task_manager: TaskManager, kind: str) -> None:
    """Hooks are called for a task that is awaited, in place or on a thread."""
    told: asyncio.Queue[str] = asyncio.Queue()
    loop, here = asyncio.get_running_loop(), asyncio.current_task()

    async def async_body() -> bool:
        return asyncio.current_task() is here

    def sync_body() -> bool:
        return True

    decorated: Any = async_task(sync_body if kind == "sync" else async_body)

    def hook(task: Task) -> None:
        loop.call_soon_threadsafe(told.put_nowait, task.task_id)

    watched = decorated.options(on_complete=hook, task_id="mine")
    assert await watched()
    assert await told.get() == "mine"
    with pytest.raises(ValueError, match=r"^task_id must be one that no task has, not 'mine'"):
        await watched()


async def test_a_copy_with_an_id_is_one_task(task_manager: TaskManager) -> None:
    """A chosen id is the task's; while it is known a second call is refused."""

    @background_task
    def make() -> str:
        return "made"

    mine = make.options(task_id="report-7")
    assert mine() == "report-7"
    with pytest.raises(ValueError, match=r"^task_id must be one that no task has, not 'report-7'"):
        mine()
    assert await task_manager.get_result("report-7") == "made"
    assert await task_manager.submit(mine, task_id="report-8") == "report-8"


def test_a_wrong_hook_is_told() -> None:
    """A hook that cannot be called is refused when it is given."""
    hook = "on_error must be a function of the task, 'log' or 'silent', not"
    options = background_task(int).options
    assert told_by(options, on_error=7) == (TypeError, f"{hook} 7")
    assert told_by(options, on_error="logs") == (ValueError, f"{hook} 'logs'")
    assert told_by(options, on_complete=7) == (
        TypeError,
        "on_complete must be a function of the task or None, not 7",
    )
    assert told_by(options, task_id=7) == (TypeError, "task_id must be a string, not 7")


async def test_a_method_is_submitted_with_its_instance(task_manager: TaskManager) -> None:
    """A decorated method, given to submit, runs on the instance that it was taken from."""

    class Report:
        title = "June"

        @background_task(description="a report")
        def render(self, pages: int) -> str:
            return f"{self.title}: {pages} pages"

        @async_task
        async def count(self, pages: int) -> int:
            return pages

    report = Report()
    task_id = await task_manager.submit(report.render, (3,))
    assert await task_manager.get_result(task_id) == "June: 3 pages"
    task = await task_manager.get_task(task_id)
    assert task is not None
    assert task.description == "a report"
    assert await task_manager.submit(report.count, kwargs={"pages": 2}, wait=True) == 2


def test_a_scheduled_function_is_called_right_here() -> None:
    """Calling a scheduled sync function runs it and returns what it returns."""

    @scheduled_task(every=60)
    def beat() -> str:
        return "alive"

    assert beat() == "alive"


async def test_a_scheduled_coroutine_function_is_awaited_right_here() -> None:
    """Awaiting a scheduled async function runs it and gives what it returns."""

    @scheduled_task(every=60)
    async def beat() -> str:
        return "alive"

    assert await beat() == "alive"


def test_a_scheduled_function_needs_no_arguments() -> None:
    """A function that cannot be called without arguments is refused at decoration."""

    def needs(value: int) -> int:
        return value

    with pytest.raises(TypeError, match=r"^scheduled_task calls .*needs without arguments"):
        scheduled_task(every=60)(needs)  # type: ignore[arg-type]  # what is wrong


def test_a_decorated_function_is_found_by_its_name() -> None:
    """The latest function of a name is found while it lives, and not after."""

    @background_task(name="reports.make")
    def make() -> None:
        """Do nothing."""

    assert find_function("reports.make") is make
    assert find_function("reports.none") is None


def test_an_annotation_that_is_not_there_yet_is_an_id_of_anything() -> None:
    """A return annotation that cannot be resolved at decoration does not stop it."""

    def later() -> NotThereYet:  # type: ignore[name-defined]  # noqa: F821  # on purpose
        """Do nothing."""

    decorated = background_task(later)
    assert decorated.__annotations__["return"] == TaskId[Any]


async def test_tasks_of_one_status(task_manager: TaskManager) -> None:
    """Only tasks of the status that was asked for are given, by member or by value."""
    done = await task_manager.submit(int)
    await task_manager.get_result(done)
    delayed = await task_manager.submit(int, delay=60)
    assert list(task_manager.get_tasks_by_status(TaskStatus.COMPLETED)) == [done]
    assert list(task_manager.get_tasks_by_status("pending")) == [delayed]
    assert await task_manager.cancel_task(delayed)


async def test_what_a_task_says_of_itself(task_manager: TaskManager) -> None:
    """Description, origin and repr of a task say what, where and how it stands."""

    @async_task(description="adds up")
    async def add() -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        await add()
    (task_id,) = task_manager.get_all_tasks()
    task = await get_task_manager().get_task(task_id)
    assert task is not None
    assert task.description == "adds up"
    assert task.origin is not None
    assert "test_options.py:" in task.origin
    assert repr(task).endswith("add failed>")
    assert task_manager.rng.random() < 1.0


async def test_a_callable_object_with_an_async_call_is_awaited(
    task_manager: TaskManager,
) -> None:
    """A callable whose ``__call__`` is async runs on the loop as a task."""

    class Later:
        async def __call__(self) -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

    here = asyncio.get_running_loop()
    assert await task_manager.submit(Later(), wait=True) is here


def test_a_decorated_function_reads_no_global() -> None:
    """What stands for a function has that function's globals, so it may read none of ours."""

    def sync_body() -> None:
        """Do nothing."""

    async def async_body() -> None:
        """Do nothing."""

    wrong = []
    every: list[Any] = [
        *(background_task, async_task, throttled_task(rate_limit=1), retry_task),
        scheduled_task(60),
    ]
    for decorate in every:
        for body in (sync_body, async_body):
            decorated = decorate(body)
            wrong += [
                (decorate, one)
                for one in dis.get_instructions(decorated)
                if one.opname == "LOAD_GLOBAL"
            ]
            assert decorated.__globals__ is body.__globals__
    assert not wrong, wrong


NAMES = "unique, on_duplicate, max_running, key"


async def test_an_unknown_option_of_a_submission_is_told(task_manager: TaskManager) -> None:
    """A keyword of the function's own among the options is named, and its place is told."""
    for submit, wait in (("submit", ", wait"), ("submit_nowait", "")):
        message = (
            rf"^{submit}\(\) got an unexpected keyword argument 'text', 'size'; its options are "
            r"timeout, description, label, meta, show_arguments, priority, on_error, "
            r"keep_arguments, check_arguments, delay, after, after_failure, task_id, owner, "
            rf"session, on_complete, {NAMES}{wait}; "
            r"arguments of the function go in args=\(\.\.\.\) or kwargs=\{\.\.\.\}$"
        )
        with pytest.raises(TypeError, match=message):
            await getattr(task_manager, submit)(int, text="a", timeout=5, size=1)

    assert task_manager.get_stats()["submitted"] == 0


RUN_NAMES = (
    "timeout, description, label, meta, show_arguments, priority, on_error, keep_arguments, "
    "check_arguments"
)


def test_an_unknown_option_of_a_decorator_is_told() -> None:
    """A keyword that is no option is refused at decoration, with those that there are."""
    options: dict[Any, str] = {
        background_task: f"{RUN_NAMES}, name, {NAMES}, on_restart, idempotent",
        async_task: f"{RUN_NAMES}, name, {NAMES}",
        throttled_task: "rate_limit, time_window, when_limited, key, shared",
        retry_task: "max_retries, retry_delay, backoff, max_delay, jitter, exceptions",
    }
    told = [told_by(decorate, retries=3) for decorate in options]
    assert told == [
        (
            TypeError,
            (
                f"{decorate.__name__}() got an unexpected keyword argument 'retries'; its options "
                f"are {names}"
            ),
        )
        for decorate, names in options.items()
    ]


@pytest.mark.usefixtures("asyncframe")  # on its clock the delay stays as long
async def test_none_keeps_what_was(task_manager: TaskManager) -> None:
    """None for an option of a task, by a decorator, a copy or a submission, is as if left out."""

    @background_task(description=None, name=None)
    def make() -> None:
        """Do nothing."""

    named: Any = make.options(description="a report", name="report", delay=60)
    same = named.options(**dict.fromkeys(("timeout", "description", "name", "delay", "task_id")))
    task_id = await task_manager.submit(same, description=None, timeout=None, task_id=None)
    task = await task_manager.get_task(task_id)

    assert task is not None
    assert (task.name, task.description) == ("report", "a report")
    assert timeless(task.reason) == "delayed until T, in 1 min"
    assert await task_manager.cancel_task(task_id)


async def test_a_submission_may_undo_a_delay(task_manager: TaskManager) -> None:
    """A delay of 0, if given, takes the place of the one that the function has."""

    @background_task
    def make() -> str:
        return "made"

    assert await task_manager.submit(make.options(delay=3_600), delay=0, wait=True) == "made"


RUN = (
    "timeout=None, description='', label=None, meta=None, show_arguments=None, "
    "priority='normal', on_error='log', keep_arguments=True, check_arguments=True"
)
ONCE = (
    "delay=0.0, after=None, after_failure='cancel', task_id=None, owner=None, session=None, "
    "on_complete=None"
)
PLACES = "unique=False, on_duplicate='return', max_running=None, key=None"
THROTTLE = "rate_limit, time_window=60.0, when_limited='raise', key=None, shared=True"
RETRY = "max_retries=3, retry_delay=1.0, backoff=1.0, max_delay=None, jitter=0.0, exceptions="
KEPT = "time_window=..., when_limited=..., key=..., shared=..."


def test_a_signature_has_each_option() -> None:
    """`inspect.signature`, and so `help`, shows each option with its default."""
    options: dict[Callable[..., Any], str] = {
        background_task: f"{RUN}, name=None, {PLACES}, on_restart='interrupt', idempotent=False",
        async_task: f"{RUN}, name=None, {PLACES}",
        TaskManager.submit: f"wait=False, {RUN}, {ONCE}, {PLACES}",
        TaskManager.submit_nowait: f"{RUN}, {ONCE}, {PLACES}",
        throttled_task: THROTTLE,
        throttled_task(rate_limit=1)(int).options: f"rate_limit=..., {KEPT}",
        retry_task: f"{RETRY}{Exception!r}",
    }
    shown = {}
    for function in options:
        named = [
            parameter.replace(annotation=parameter.empty)
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        shown[function] = str(inspect.Signature(named))
    assert shown == {function: f"(*, {text})" for function, text in options.items()}


def test_a_docstring_has_each_option() -> None:
    """The docstring says of each parameter what it means."""
    functions: list[Callable[..., Any]] = [
        *(background_task, async_task, throttled_task, retry_task, TaskManager.submit)
    ]
    lacking = [
        (function, name)
        for function in functions
        for name in inspect.signature(function).parameters.keys() - {"self"}
        if f"\n    {name}: " not in (inspect.getdoc(function) or "")
    ]
    assert not lacking, lacking
    assert not [one for one in functions if "**options" in (inspect.getdoc(one) or "")]


def named(name: str | None) -> Any:
    """Return a function that is requeued, and that only this function makes."""

    @background_task(on_restart="requeue", name=name)
    def inner() -> None: ...

    return inner


def test_requeued_function_that_no_other_process_finds() -> None:
    """What another process could not find by its name is refused where it is decorated."""
    with pytest.raises(
        ValueError,
        match=r"^on_restart must be 'interrupt' for tests\.framework\.decorators\.test_options\."
        r"named\.<locals>\.inner, not 'requeue': another process cannot find it by this name; "
        r"define it in a module, or give it a name=\.\.\. of its own$",
    ):
        named(None)

    assert find_function("tests.found") is None
    assert named("tests.found") is find_function("tests.found")


def test_requeued_function_without_arguments_that_are_kept() -> None:
    """A task that another process is to run needs its arguments there."""
    with pytest.raises(
        ValueError,
        match=r"^keep_arguments must be True with on_restart='requeue', not False: another process "
        r"cannot run the task without its arguments$",
    ):
        background_task(on_restart="requeue", keep_arguments=False)(named)


async def test_requeued_submission_without_arguments_that_are_kept(
    task_manager: TaskManager,
) -> None:
    """A submission cannot take the arguments away from whoever is to run it later either."""
    requeued = background_task(on_restart="requeue", name="tests.kept")(named)
    message = r"^keep_arguments must be True with on_restart='requeue', not False: "
    with pytest.raises(ValueError, match=message):
        await task_manager.submit(requeued, (None,), keep_arguments=False)
    with pytest.raises(ValueError, match=message):
        task_manager.submit_nowait(requeued, (None,), keep_arguments=False)
    assert task_manager.get_stats()["submitted"] == 0


def test_requeued_function_that_is_awaited() -> None:
    """A task that its caller awaits cannot be requeued: after a restart nobody awaits it."""
    with pytest.raises(
        ValueError,
        match=r"^on_restart must be 'interrupt' for an async_task, not 'requeue': whoever awaits "
        r"it is gone after a restart; use background_task$",
    ):
        async_task(test_requeued_function_that_is_awaited).options(on_restart="requeue")
