"""setup_async_framework: the framework as an app's lifespan, or inside it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from contextvars import Token
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from framework._app.blocking import in_thread
from framework._app.endpoints import prepare_endpoints, warn_of_plain_endpoints
from framework._app.handlers import lifespans_in, run_handlers
from framework._app.requests import Requests
from framework._manager.core import Parts
from framework._manager.drain import drain
from framework._manager.frameworks import Framework, override
from framework._manager.hosting.role import in_role
from framework._manager.hosting.taking_over import warn_of_lost_tasks
from framework._manager.servers import worker_count
from framework._manager.settings import Settings
from framework._records import checks
from framework._running.log import install_task_fields
from framework._tasks.current import current_scope
from framework._tasks.live import Home, Sleeper, current_home
from framework._tasks.mistakes import explain
from framework._threads.clock import SystemClock
from framework._threads.loggers import SafeLogger
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework._threads.watch.loop_watch import LoopWatch
from framework.protocols import Clock, TaskEngine, TaskStore, Telemetry
from framework.protocols._features import features_of

if TYPE_CHECKING:
    from starlette.applications import Starlette

_LOGGER = SafeLogger("asyncframe")

P = ParamSpec("P")
T = TypeVar("T")


def _tells_settings(function: Callable[P, T]) -> Callable[P, T]:
    """Let *function* list its settings if it is given one that it does not have."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def sync_inner(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known:
                raise TypeError(
                    f"{function.__name__}() got an unexpected keyword argument {name!r}; its "
                    f"settings are {', '.join(known[1:])}{checks.nearest(name, known)}"
                )
        return function(*args, **kwargs)

    return sync_inner


@_tells_settings
def setup_async_framework(
    app: Starlette | None = None,
    *,
    max_workers: int | None = None,
    graceful_shutdown_timeout: float | timedelta = 30.0,
    task_timeout: float | timedelta | None = None,
    show_arguments: bool = False,
    queue_size: int = 10_000,
    result_ttl: float | timedelta = 86_400.0,
    max_finished_tasks: int = 100_000,
    cleanup_interval: float | timedelta = 60.0,
    clock: Clock | None = None,
    executor: ThreadPoolExecutorEnhanced | None = None,
    store: TaskStore | None = None,
    engine: TaskEngine | None = None,
    telemetry: Sequence[Telemetry] = (),
    slow_loop: float | timedelta = 1.0,
) -> FrameworkLifespan:
    """Set up the task framework for an app, as its lifespan or inside it.

    Pass it as the lifespan, ``FastAPI(lifespan=setup_async_framework)`` or, with settings,
    ``FastAPI(lifespan=setup_async_framework(max_workers=10))``. Or enter it in your own
    lifespan, ``async with setup_async_framework(app, max_workers=10):``. It sets
    ``app.state.task_manager`` and ``app.state.thread_pool``. It also runs the handlers of
    ``@app.on_event``, which FastAPI ignores if there is a lifespan.

    When the context ends, the framework drains: it accepts no new tasks and cancels delayed
    ones; waiting and running tasks get *graceful_shutdown_timeout* seconds; then queued tasks
    become CANCELLED, ``async def`` tasks are cancelled, and tasks that still run on a thread
    become INTERRUPTED. The event loop is not blocked meanwhile.

    All times are numbers of seconds, or timedeltas.

    Args:
        app: The app; None to use the framework without one, or if you pass the result as an
            app's lifespan.
        max_workers: How many threads run at once; None for the default of
            `concurrent.futures.ThreadPoolExecutor`. 0 for a process that only submits, to the
            others that share its *store*: only tasks with ``on_restart="requeue"``.
        graceful_shutdown_timeout: How many seconds tasks get to finish at shutdown, 0 or
            more.
        task_timeout: Time limit in seconds for tasks without their own; None for the
            executor's, infinity for no limit.
        show_arguments: Whether everybody who sees a task sees its arguments, of tasks without
            their own *show_arguments*, which says how.
        queue_size: How many tasks may wait, 1 or more. A task that is submitted on an event
            loop waits at least until the next iteration of the loop, even if a thread is
            idle.
        result_ttl: How many seconds finished tasks are kept, above 0.
        max_finished_tasks: How many finished tasks are kept, 0 or more. If there are more,
            the oldest are removed, 1/128 of this number at a time.
        cleanup_interval: Seconds between removals by age, above 0; infinity for never.
        clock: Source of all time; None for the system's clock.
        executor: Your own thread pool, which you shut down; excludes *max_workers*.
        store: Where tasks are kept, such as a `SQLStore`; None for memory.
        engine: What runs the tasks, such as a `CeleryEngine`; None for the thread pool and the
            app's event loop.
        telemetry: What reports on the tasks, such as ``[PrometheusSink()]``. It is attached
            before the first task, and detached after the last one has ended.
        slow_loop: Seconds after which the log names what keeps the event loop from turning, 0.1
            or more; 0 for never. Only in real time.

    Returns:
        An async context manager that yields None. It can also be the lifespan of an app.

    Raises:
        TypeError: If a parameter has the wrong type.
        ValueError: If a number is out of range, both *executor* and *max_workers* are given, or
            *max_workers* is 0 with an *engine*, or without a *store* that processes share; on
            entering, if the engine's settings would lose tasks or run them twice.
        RuntimeError: On entering, if no asyncio event loop runs, as under trio.
        StoreUnavailableError: On entering, if a shared store cannot be reached.
    """
    settings = Settings.checked(
        max_workers=max_workers,
        task_timeout=task_timeout,
        show_arguments=show_arguments,
        queue_size=queue_size,
        result_ttl=result_ttl,
        max_finished_tasks=max_finished_tasks,
        cleanup_interval=cleanup_interval,
        graceful_shutdown_timeout=graceful_shutdown_timeout,
        slow_loop=slow_loop,
    )
    parts = _checked_parts(clock, executor, store, engine, max_workers)
    return FrameworkLifespan(app, settings, parts, checks.telemetry("telemetry", telemetry))


def _checked_parts(
    clock: Any, executor: Any, store: Any, engine: Any, max_workers: int | None
) -> Parts:  # Any: checked here
    if executor is not None and not isinstance(executor, ThreadPoolExecutorEnhanced):
        raise TypeError(
            f"executor must be a ThreadPoolExecutorEnhanced or None, not {checks.show(executor)}"
        )
    if executor is not None and max_workers is not None:
        raise ValueError(
            "max_workers is set by the executor: pass only one of the two, "
            f"not max_workers={max_workers!r} and executor"
        )
    checks.clock(clock)
    if isinstance(store, str):
        raise TypeError(
            "store must be a store, not a URL: use store=SQLStore("
            f"{checks.show(store)}), with 'from framework.stores.sql import SQLStore'"
        )
    if isinstance(engine, str) or type(engine).__name__ == "Celery":
        raise TypeError(
            "engine must be an engine: use engine=CeleryEngine(celery_app), with 'from "
            f"framework.engines.celery import CeleryEngine', not {checks.show(engine)}"
        )
    checks.methods("store", store, ("put", "get", "list", "remove"))
    checks.methods("engine", engine, ("start", "withdraw", "abandon", "run_inline"))
    if max_workers == 0:
        _check_offering(store, engine)
    return Parts(clock=clock, pool=executor, store=store, engine=engine)


def _check_offering(store: Any, engine: Any) -> None:  # Any: of `_checked_parts`
    if engine is not None:
        raise ValueError(
            "max_workers must not be 0 with an engine, whose workers run the tasks: leave it out"
        )
    if features_of(store).requeue is None:
        raise ValueError(
            "max_workers=0 needs a store that other processes share, from which they take the "
            f"tasks, such as store=SQLStore(url), not store={checks.show(store)}"
        )


class FrameworkLifespan(AbstractAsyncContextManager[None]):
    """Returned by `setup_async_framework`: a context manager, or a lifespan for an app."""

    # Any: settings and parts are none of the public types
    def __init__(
        self,
        app: Starlette | None,
        settings: Any,
        parts: Any,
        telemetry: Sequence[Telemetry],
    ) -> None:
        self._was_used = True  # if it is refused, nobody can use it
        if app is not None and not (hasattr(app, "middleware_stack") and hasattr(app, "router")):
            raise TypeError(
                f"app must be a FastAPI or Starlette app, or None, not {checks.show(app)}"
            )
        self._app = app
        self._settings: Settings = settings
        self._parts: Parts = parts
        self._telemetry = telemetry
        self._attached = ExitStack()
        # What ends once the tasks are drained.
        self._entered = ExitStack()
        self._framework: Framework | None = None
        self._home: Home | None = None
        self._was_used = False

    def __del__(self) -> None:
        # In a coroutine, such as a lifespan, it was to be entered.
        if self._was_used or self._app is None or asyncio._get_running_loop() is None:
            return
        # An app that was never started has an unused lifespan, and nothing is wrong with it.
        if not any(one is self for one in lifespans_in(self._app.router.lifespan_context)):
            warnings.warn(
                "setup_async_framework(app) was thrown away without having been entered, so no "
                "framework runs: write 'async with setup_async_framework(app):' in your own "
                "lifespan, or FastAPI(lifespan=setup_async_framework)",
                RuntimeWarning,
                stacklevel=2,
            )

    def __call__(self, app: Starlette) -> FrameworkLifespan:
        """Return a context manager with the same settings for *app*; the app calls this.

        Raises:
            TypeError: If it was made for another app.
        """
        self._was_used = True
        if self._app is not None and self._app is not app:
            raise TypeError(
                "this lifespan was made for another app: do not pass an app, as in FastAPI("
                "lifespan=setup_async_framework(max_workers=10)), or enter it inside your own "
                "lifespan, 'async with setup_async_framework(app, max_workers=10):'"
            )
        return FrameworkLifespan(app, self._settings, self._parts, self._telemetry)

    if not TYPE_CHECKING:  # checkers refuse a plain "with", as they should

        def __enter__(self):
            """Raise an error that asks for ``async with``."""
            raise TypeError(
                "setup_async_framework() needs a running event loop: use 'async with' in a "
                "coroutine instead of 'with'"
            )

        __exit__ = None

    async def __aenter__(self) -> None:
        self._was_used = True
        if self._framework is not None:
            raise RuntimeError(
                "this framework is already running: call setup_async_framework() again for a "
                "second one"
            )
        loop = _running_loop()
        shared = override()
        if shared is not None:
            shared.adopt(self._settings)
        framework = shared or Framework(*in_role(self._parts, self._settings))
        self._framework = framework
        await self._connect(framework, alone=shared is None)
        if shared is None and not framework.core.others.exist:
            _warn_of_siblings(worker_count(sys._getframe()))
        if shared is None:
            warn_of_lost_tasks(framework.core)
        install_task_fields()
        self._home = home = Home(framework.core, self._app, loop)
        if shared is not None:
            shared.add_rules(home, self._parts)
        framework.open(home)
        self._entered.callback(framework.leave, home)
        self._entered.callback(_reset, current_home.set(home))
        if self._app is not None:
            running = _RUNNING.setdefault(self._app, [])
            running.append(framework)
            _show_state(self._app)
            self._entered.callback(_show_state, self._app)
            self._entered.callback(running.remove, framework)
            if shared is None:
                # In requests alone, so that others do not pay for it.
                framework.core.guard.refuse_where(current_scope.get)
            self._entered.callback(Requests(self._app, home).take_off)
            warn_of_plain_endpoints(self._app)
            try:
                prepare_endpoints(self._app, _is_running)
                await run_handlers(self._app, "on_startup")
            except BaseException:  # raised again, once nothing is left behind
                await self._stop()
                raise
        # Only now: a task may need what the app's handlers have set up.
        framework.core.takes_over = framework.core.has_workers
        clock = framework.core.clock
        slow = self._settings.slow_loop
        if slow and shared is None and isinstance(clock, SystemClock):
            watch = LoopWatch(clock, home, slow)
            self._entered.callback(watch.stop)
            watch.start(sys._getframe())

    async def _connect(self, framework: Framework, alone: bool) -> None:
        """Attach the telemetry, and connect the framework if it has only this app."""
        try:
            for one in self._telemetry:
                self._attached.callback(one.attach(framework.manager))
            if alone and framework.core.others.exist:
                await in_thread(framework.connect, framework.core.clock)
        except BaseException:  # as above
            self._attached.close()
            if alone:
                framework.close(0.0)
            self._framework = None
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            explain(error)
        if self._framework is not None and self._framework.core.ledger.state == "forked":
            # All of it lives in the parent, and so does the loop: nothing could be awaited.
            return
        try:
            if self._app is not None:
                await run_handlers(self._app, "on_shutdown")
        finally:
            await self._stop()

    async def _stop(self) -> None:
        framework, home = self._framework, self._home
        assert framework is not None and home is not None
        clock, grace = framework.core.clock, self._settings.graceful_shutdown_timeout
        end = clock.monotonic() + grace
        alone = override() is not framework
        sleepers: Sequence[Sleeper] = ()
        if alone:
            sleepers = framework.core.begin_wind_down()
        else:
            framework.core.schedules.leave(home)
        try:
            if alone and framework.core.remote is not None:
                # Few if any, since the tasks themselves run elsewhere; and this takes a while.
                for sleeper in sleepers:
                    sleeper.interrupt()
                what = f"{type(framework.core.remote).__name__} to publish the tasks that wait"
                await in_thread(partial(framework.hand_over, grace), clock, what, grace)
            await drain(framework.core, home, max(0.0, end - clock.monotonic()), sleepers)
        finally:
            self._entered.close()
            if alone:
                left = max(0.0, end - clock.monotonic())
                what = f"{type(framework.core.ledger.store).__name__} and the pool to close"
                await in_thread(partial(framework.close, left), clock, what, left)
            self._attached.close()
            self._framework = None


_RUNNING: Final[weakref.WeakKeyDictionary[Starlette, list[Framework]]] = weakref.WeakKeyDictionary()
"""The frameworks of each app, in the order of their start: several clients may enter one app."""


def _is_running(app: object) -> bool:
    # A router is no key, since it cannot be hashed.
    return any(one is app and frameworks for one, frameworks in _RUNNING.items())


def _reset(token: Token[Any]) -> None:
    # If the context differs from the one that was entered, there is nothing to reset.
    with suppress(ValueError):
        current_home.reset(token)


def _show_state(app: Starlette) -> None:
    """Set an app's state to the framework that its requests find: a test's, or the first one."""
    running = _RUNNING[app]
    if running:
        test = override()
        shown = test if test in running else running[0]
        app.state.task_manager, app.state.thread_pool = shown.manager, shown.pool


def _running_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio._get_running_loop()
    if loop is None:
        raise RuntimeError(
            "the task framework runs on asyncio, and no asyncio event loop runs here: run the app "
            "on asyncio, in tests with the anyio_backend 'asyncio' and with a TestClient without "
            "backend='trio'"
        )
    return loop


def _warn_of_siblings(workers: int) -> None:
    """Warn that processes without a shared store do not know each other's tasks."""
    if workers > 1:
        _LOGGER.warning(
            "%d worker processes serve this app, and each keeps its tasks in its own memory: it "
            "does not know the task ids of the others, and runs each schedule itself; use a shared "
            "store, setup_async_framework(app, store=SQLStore('sqlite:///tasks.db'))",
            workers,
        )
