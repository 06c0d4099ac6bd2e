"""Building blocks for test toolkits: a framework with replaced parts."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, MethodType
from typing import Any, NoReturn  # Any: a task's function may take anything

from framework._decorators.throttled import throttled_inner
from framework._manager.core import Core
from framework._manager.drain import REASON
from framework._manager.face.manager import TaskManager
from framework._manager.frameworks import (
    STATE,
    Promise,
    set_override,
    set_promise,
    without_override,
)
from framework._manager.inside import core_of, crew_of
from framework._manager.overriding import override_framework
from framework._records import exports
from framework._records.statuses import TRAITS
from framework._replays.at_end import call_of_resumed, replay_all
from framework._replays.differences import Difference
from framework._running.outcomes import WorkerCrashError
from framework._running.results import BEFORE_WAITS, Results
from framework._running.waits import policies
from framework._running.waits.retry import RetryPolicy
from framework._tasks import registry
from framework._tasks.functions import (
    bare_function,
    is_async,
    is_wrapper,
    layer_of,
    name_of,
    without_partials,
)
from framework._tasks.injection import signature_of_task
from framework._tasks.live import LiveTask, adopt_state, copy_record, live
from framework._tasks.mistakes import explain
from framework._tasks.options import NORMAL
from framework._threads import user_threads
from framework._threads.courier import Courier
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework._threads.pool_threads import PoolThread
from framework._threads.queue.item_queue import IDLE
from framework._threads.queue.levels import Ranking
from framework.engines._controlled import Control, ControlledEngine, ControlledExecutor, Queued
from framework.protocols import (
    Clock,
    Kind,
    TaskRecord,
)
from framework.steps._branches import forget_runs

__all__ = [
    "Call",
    "Control",
    "ControlledEngine",
    "ControlledExecutor",
    "Difference",
    "Queued",
    "Ranking",
    "RateLimit",
    "WorkerCrashError",
    "abandon_framework",
    "adopt_state",
    "around_body",
    "attempt_bound",
    "bare_function",
    "before_waits",
    "call_of",
    "call_to_replay",
    "deliver_again",
    "driver_of",
    "explain",
    "follow",
    "function_name",
    "is_caller",
    "is_courier",
    "is_idempotent",
    "is_idle",
    "is_in_place",
    "is_plain",
    "is_policy_wait",
    "is_pool_thread",
    "is_result_wait",
    "lasting_schedules",
    "layer_of",
    "mirror",
    "override_framework",
    "override_when_used",
    "own_frameworks",
    "own_schedules",
    "rate_limits",
    "refuse",
    "registered_functions",
    "replay_tasks",
    "retried_errors",
    "set_up_apps",
    "signature_of",
    "time_limits",
    "was_cut_short",
    "worker_bound",
]


@dataclass(frozen=True, slots=True)
class Call:
    """The function and arguments of a task.

    Attributes:
        fn: The function, without the framework's decorators.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        throttled: Whether the function is decorated with `throttled_task`.
        kind: Where the function runs: ``"thread"``, or ``"loop"`` if it is ``async def``.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    throttled: bool = False
    kind: Kind = "thread"


def call_of(record: TaskRecord) -> Call:
    """Return the function and arguments of a task that has not ended.

    Raises:
        LookupError: If the task has ended and its arguments are not kept.
    """
    task = live(record)
    if task.args is None:
        raise LookupError(f"task {task.task_id} has ended, so its arguments are not kept")
    fn, kind = task.spec.fn, task.spec.kind
    return Call(bare_function(fn), task.args, dict(task.kwargs or {}), _is_throttled(fn), kind)


def around_body(call: Callable[[], Any], around: Callable[[Callable[[], Any]], Any]) -> Any:
    """Run an attempt of a task with something around its function, behind its throttle.

    Args:
        call: What `Interceptor.around_attempt` was given.
        around: Is called where the function would start, with what runs the function, and
            returns the result. For an ``async def`` function it is a coroutine function.

    Returns:
        What *call* would return.
    """
    attempt = _with_body(call, around)
    return around(call) if attempt is None else attempt()


def _with_body(fn: Any, around: Callable[[Callable[[], Any]], Any]) -> Any:
    """Return *fn* with *around* behind its throttle; None if it has no throttle."""
    if isinstance(fn, functools.partial):
        inner = _with_body(fn.func, around)
        return None if inner is None else functools.partial(inner, *fn.args, **fn.keywords)
    if isinstance(fn, MethodType):
        inner = _with_body(fn.__func__, around)
        return None if inner is None else MethodType(inner, fn.__self__)
    if layer_of(fn) != "throttled_task" or is_wrapper(fn):
        return None
    bare = fn.fn

    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        return around(functools.partial(bare, *args, **kwargs))

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        return await around(functools.partial(bare, *args, **kwargs))

    # With the same policy, and so in the same window.
    return throttled_inner(async_inner if is_async(bare) else sync_inner, fn.__asyncframe_policy__)


def deliver_again(record: TaskRecord) -> Callable[[], Any] | None:
    """Deliver a running task once more, as an engine does that believes its worker dead.

    The delivery is counted at once, so the function runs a second time even if its first run
    ends the task before that. Call this on the thread or event loop where the task runs.

    Args:
        record: The task. Its framework must have an interceptor.

    Returns:
        What runs the function once more: a sync one on the calling thread, and an ``async
        def`` one in an asyncio task on this loop, which it returns. None if the task has
        ended.
    """
    return _core_of(record).runner.deliver_again(live(record))


def is_in_place(record: TaskRecord) -> bool:
    """Return whether a task that is about to be accepted will run where it is awaited.

    Such a task does not queue, so that a full queue does not refuse it.
    """
    return live(record).driver is not None


def refuse(record: TaskRecord) -> NoReturn:
    """Refuse a task that is about to be accepted, as if the queue were full.

    Raises:
        QueueFullError: Always.
    """
    ledger = _core_of(record).ledger
    with ledger.lock:
        raise ledger.queue_full()


def _core_of(record: TaskRecord) -> Core:
    core = live(record).home.core
    assert isinstance(core, Core)
    return core


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The limit of a throttled function.

    Attributes:
        name: Name of the function, as in `Interceptor.after_throttle`.
        rate: How many calls may start in a window, 1 or more.
        window: Length of the window in seconds, above 0.
    """

    name: str
    rate: int
    window: float


def rate_limits(manager: TaskManager) -> list[RateLimit]:
    """Return the limits of the throttled functions that were called under a manager.

    Functions with a ``key`` are left out, since each of their keys has a window of its own.
    So are copies made with ``.options()`` and other functions that share their name with one.
    """
    policies = core_of(manager).policies.throttles()
    total = Counter(policy.name for policy in policies)
    return [
        RateLimit(policy.name, policy.options["rate_limit"], policy.window)
        for policy in policies
        if total[policy.name] == 1 and not policy.has_key
    ]


def attempt_bound(record: TaskRecord) -> int:
    """Return how many attempts each delivery of a task may take: 1 if it is not retried."""
    policy = getattr(live(record).spec.fn, "__asyncframe_policy__", None)
    return policy.options["max_retries"] + 1 if isinstance(policy, RetryPolicy) else 1


def retried_errors(record: TaskRecord) -> tuple[type[BaseException], ...]:
    """Return the errors after which a running task makes another attempt; () if after none."""
    task = live(record)
    policy = getattr(task.spec.fn, "__asyncframe_policy__", None)
    if not isinstance(policy, RetryPolicy) or task.attempts > policy.options["max_retries"]:
        return ()
    kinds: Any = policy.exceptions  # the default is a class
    return kinds if isinstance(kinds, tuple) else (kinds,)


def is_idempotent(record: TaskRecord) -> bool:
    """Return whether a task runs again if its process dies while it runs."""
    return live(record).spec.idempotent


def call_to_replay(record: TaskRecord) -> str | None:
    """Return what `replay_tasks` needs to know of a task whose function is about to begin.

    Returns:
        None if the task does not go on from its steps, or JSON has nothing for its arguments; or
        if the record is that of another process.
    """
    is_resumed = isinstance(record, LiveTask) and record.spec.resumes
    return call_of_resumed(live(record)) if is_resumed else None


def replay_tasks(
    calls: Mapping[TaskRecord, str],
    clock: Clock | None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
) -> dict[TaskRecord, list[Difference]]:
    """Run the code of tasks that have ended again from the records of their steps; blocks.

    Each step is answered from its record, and its body does not run; all else of the code does. A
    task that has COMPLETED must call what is recorded, and nothing else; any other one as far as
    its records go.

    Args:
        calls: The tasks, each with what `call_to_replay` has returned.
        clock: Source of their time; None for the system's.
        loop_factory: Makes the event loop of each; None to run each one on a thread of its own, in
            real time, for five seconds at most.

    Returns:
        Those that go another way, with what was found.
    """
    return replay_all({live(one): call for one, call in calls.items()}, clock, loop_factory)


def is_plain(record: TaskRecord) -> bool:
    """Return whether nothing but its function runs for a task, and as soon as there is a thread.

    So it has no hook, delay or priority, is not requeued, and waits for no place.
    """
    task = live(record)
    spec = task.spec
    waits = spec.delay or spec.needs_place or spec.level != NORMAL
    return not (waits or spec.requeue or task.hooks)


def worker_bound(pool: ThreadPoolExecutorEnhanced) -> int:
    """Return how many threads of a pool may have run something at the same time so far.

    This is its present ``max_workers``, and a spare thread for each one that has waited for
    another task or call. Abandoned threads are not included.
    """
    crew = crew_of(pool)
    return crew.max_workers + crew.spares.most_blocked


def driver_of(record: TaskRecord) -> asyncio.Task[Any] | None:
    """Return the asyncio task that runs a task's coroutine now; None if there is none.

    A `mirror` has none.
    """
    driver = record.driver if isinstance(record, LiveTask) else None
    return None if driver is None else driver.asyncio_task


@contextmanager
def before_waits(call: Callable[[], object]) -> Iterator[None]:
    """Inside the block, call *call* whenever a coroutine is about to wait for a task.

    This applies to the whole process. If *call* raises, the waiting coroutine gets the error.
    """
    BEFORE_WAITS.append(call)
    try:
        yield
    finally:
        BEFORE_WAITS.remove(call)


def was_cut_short(record: TaskRecord) -> bool:
    """Return whether a shutdown ended a task before it ended by itself."""
    return TRAITS[record.status].error is not None and record.reason == REASON


def is_caller(thread: threading.Thread) -> bool:
    """Return whether a thread only calls a hook, callbacks, an app's handler or a dependency."""
    return thread.name in user_threads.NAMES


def is_courier(thread: threading.Thread, clock: Clock) -> bool:
    """Return whether a thread of the framework carries out what others hand in, on *clock*."""
    owner = getattr(getattr(thread, "_target", None), "__self__", None)
    return isinstance(owner, Courier) and owner.clock is clock


def is_pool_thread(thread: threading.Thread) -> bool:
    """Return whether a thread belongs to a `ThreadPoolExecutorEnhanced`."""
    return isinstance(thread, PoolThread)


def is_idle(code: CodeType) -> bool:
    """Return whether a thread of a pool that is executing *code* is idle."""
    return code is IDLE


def is_result_wait(code: CodeType) -> bool:
    """Return whether a coroutine that is executing *code* waits for a task to end."""
    return code is Results.until_final.__code__


def is_policy_wait(code: CodeType) -> bool:
    """Return whether *code* is that of a retry or a throttle, which may sleep."""
    return code.co_filename == policies.__file__


def time_limits(manager: TaskManager) -> list[tuple[TaskRecord, float]]:
    """Return the running tasks that have a time limit, and the seconds at which it is over.

    These are those of ``manager.clock.monotonic()``. Any thread.
    """
    return [*core_of(manager).endings.limits.left()]


def signature_of(fn: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of *fn* as a task, without its dependencies; None if it is unknown."""
    return signature_of_task(fn)


def function_name(fn: Callable[..., Any]) -> str:
    """Return the name of *fn*, decorated or not, in events and `Interceptor.after_throttle`.

    Its tasks have the same name, unless the decorator sets another one.
    """
    return name_of(fn)


@contextmanager
def lasting_schedules() -> Iterator[None]:
    """Keep schedules that are created inside the block, and run them in every framework.

    Without this, schedules that are created during an override end with it. Use it for a
    fixture that creates an app for many tests.
    """
    with registry.lasting():
        yield


def registered_functions() -> dict[str, Callable[..., Any]]:
    """Return the decorated functions that exist in this process, by name.

    The name is the name of their tasks: the one from the decorator, or `function_name`.
    """
    found = {name: registry.find_function(name) for name in registry.names()}
    return {name: function for name, function in found.items() if function is not None}


def own_schedules(manager: TaskManager) -> dict[str, Callable[..., Any]]:
    """Return the functions scheduled under a manager that no other one runs, by name."""
    return {it.spec.name: it.spec.fn for it in core_of(manager).schedules.own()}


def set_up_apps(manager: TaskManager) -> list[Any]:
    """Return the apps that are set up under a manager, the latest first."""
    return [home.app for home in tuple(core_of(manager).intake.homes) if home.app is not None]


def mirror(record: TaskRecord) -> TaskRecord:
    """Return a copy of a record, for `follow`: the framework's own ends with the submission."""
    return copy_record(record)


def follow(
    manager: TaskManager, record: TaskRecord, told: Callable[[], object]
) -> Callable[[], object]:
    """Keep the record of a task that another process runs as it is in the store.

    Args:
        manager: The manager under which it was submitted.
        record: A `mirror`. Apart from where it was submitted, it gets the state that the store
            has.
        told: Called on another thread after each change. Several changes in a short time may
            be one.

    Returns:
        A function that ends it; harmless to call twice.
    """

    def learn(found: TaskRecord | None) -> None:
        if found is not None:
            adopt_state(record, found)
            told()

    return core_of(manager).others.follow(record.task_id, learn)


def _is_throttled(fn: Any) -> bool:
    while True:
        fn = without_partials(fn)
        layer = layer_of(fn)
        if layer is None or layer == "throttled_task":
            return layer is not None
        fn = fn.fn


def abandon_framework() -> None:
    """Leave the override of a test at once, as a process leaves its framework that is killed.

    Nothing of it is drained, stored or told, now or when its block ends. The next override takes
    its place. First see to it that no thread and no event loop goes on that works for it.

    Raises:
        RuntimeError: If there is no override.
    """
    framework = STATE.override
    if framework is None:
        raise RuntimeError("there is no override_framework() that could be abandoned")
    set_override(None)
    forget_runs(framework.core)
    # The one thread that nobody else can stop: it asks the store what others want to know.
    framework.core.others.close()


@contextmanager
def own_frameworks() -> Iterator[Callable[[], bool]]:
    """Let the apps that start in the block have frameworks of their own, and not a test's.

    For a fixture whose app several tests use.

    Yields:
        A function that returns whether a framework which was started in the block is running.
    """
    before = list(STATE.running)
    with without_override():
        yield lambda: any(one not in before for one in STATE.running)


@contextmanager
def override_when_used(
    make: Callable[[], AbstractContextManager[TaskManager]],
) -> Iterator[Callable[[], None]]:
    """Override the framework once something uses it, for tests that may not use one at all.

    Until then the block costs next to nothing.

    Args:
        make: Returns an `override_framework`. Called once at the most, on the thread that first
            uses a framework; others wait for it. What it returns is left when the block ends.

    Yields:
        A function that makes the override now if nothing has used it yet; for any thread.

    Raises:
        RuntimeError: If an override is active already.
    """
    with ExitStack() as stack:
        promise = Promise(lambda: stack.enter_context(make()))
        set_promise(promise)
        try:
            yield promise.keep
        finally:
            promise.withdraw()
            set_promise(None)


exports.pin(globals())
