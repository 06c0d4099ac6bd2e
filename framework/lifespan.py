"""setup_async_framework: the framework as an app's lifespan, or a part of it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from framework._decorators.endpoints import warn_of_plain_endpoints
from framework._manager.drain import drain
from framework._manager.frameworks import Framework, Parts, override
from framework._manager.servers import worker_count
from framework._manager.settings import Settings
from framework._running.log import install_task_ids
from framework._tasks import checks
from framework._tasks.current import current_home
from framework._tasks.ids import explain_await
from framework._tasks.live import Home
from framework._threads import thread_names
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework._threads.sleepers import LoopSleeper
from framework.protocols import Clock, TaskEngine, TaskStore

if TYPE_CHECKING:
    from starlette.applications import Starlette

_LOGGER = logging.getLogger("asyncframe")

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def setup_async_framework(
    app: Starlette | None = None,
    *,
    max_workers: int | None = None,
    graceful_shutdown_timeout: float = 30.0,
    task_timeout: float | None = None,
    queue_size: int = 10_000,
    result_ttl: float = 86_400.0,
    max_finished_tasks: int = 100_000,
    cleanup_interval: float = 60.0,
    clock: Clock | None = None,
    executor: ThreadPoolExecutorEnhanced | None = None,
    store: TaskStore | None = None,
    engine: TaskEngine | None = None,
) -> FrameworkLifespan:
    """Run a task framework for as long as the context lasts.

    Give it to the app, ``FastAPI(lifespan=setup_async_framework)`` or, with limits,
    ``FastAPI(lifespan=setup_async_framework(max_workers=10))``. Or enter it inside your own
    lifespan, ``async with setup_async_framework(app, max_workers=10):``. It sets
    ``app.state.task_manager`` and ``app.state.thread_pool`` and runs the handlers of
    ``@app.on_event``, which FastAPI skips beside a lifespan.

    Leaving it drains: no new tasks; delayed ones are CANCELLED; what runs and waits has
    *graceful_shutdown_timeout* seconds; then queued tasks are CANCELLED, ``async def`` ones
    cancelled, and threads left behind, their tasks INTERRUPTED. The loop is not blocked
    meanwhile.

    Args:
        app: The app; None to run without one, or for the app whose lifespan it becomes.
        max_workers: Threads that work at once, 1 or more; None for the standard default.
        graceful_shutdown_timeout: Seconds that tasks get to end at shutdown, 0 or more.
        task_timeout: Limit in seconds of tasks without one of their own; None for the
            executor's, infinity for none.
        queue_size: How many tasks may wait, from 1 on. One submitted on a loop waits at
            least until the loop's next turn, whether or not a thread is idle.
        result_ttl: Seconds for which finished tasks are kept, above 0.
        max_finished_tasks: How many finished tasks are kept at most, from 0 on; when there
            are more, the oldest go, and with them one in 128 at once.
        cleanup_interval: Seconds between clean-ups by age, above 0; infinity for never.
        clock: Time for everything; None for the system's.
        executor: A pool of your own, which you shut down; excludes *max_workers*.
        store: Where tasks are kept, such as a `SQLStore`; None for this process's memory.
        engine: Where tasks run, such as a `CeleryEngine`; None for the pool and the app's loop.

    Returns:
        An async context manager that gives None; also a lifespan for an app.

    Raises:
        TypeError: If a parameter is of the wrong type.
        ValueError: If a number is out of range, or *executor* comes with *max_workers*; on
            entering, if the engine's settings would lose tasks or run them twice.
        StoreUnavailableError: On entering, if a shared store cannot be reached.
    """
    _check_app(app)
    settings = Settings.checked(
        max_workers=max_workers,
        task_timeout=task_timeout,
        queue_size=queue_size,
        result_ttl=result_ttl,
        max_finished_tasks=max_finished_tasks,
        cleanup_interval=cleanup_interval,
    )
    grace = checks.number(
        "graceful_shutdown_timeout", graceful_shutdown_timeout, at_least=0, finite=False
    )
    _check_parts(clock, executor, store, engine, max_workers)
    parts = Parts(clock=clock, pool=executor, store=store, engine=engine)
    return FrameworkLifespan(app, settings, parts, grace)


def _check_app(app: object) -> None:
    if app is not None and not (hasattr(app, "middleware_stack") and hasattr(app, "router")):
        raise TypeError(f"app must be a FastAPI or Starlette app, or None, not {checks.show(app)}")


def _check_parts(
    clock: object, executor: object, store: object, engine: object, max_workers: int | None
) -> None:
    if executor is not None and not isinstance(executor, ThreadPoolExecutorEnhanced):
        raise TypeError(
            f"executor must be a ThreadPoolExecutorEnhanced or None, not {checks.show(executor)}"
        )
    if executor is not None and max_workers is not None:
        raise ValueError(
            "max_workers belongs to the executor that is given: leave out one of the two, "
            f"not max_workers={max_workers!r} beside executor"
        )
    checks.clock(clock)
    if isinstance(store, str):
        raise TypeError(
            "store must be a store and not its URL: write store=SQLStore("
            f"{checks.show(store)}), with 'from framework.stores.sql import SQLStore'"
        )
    if isinstance(engine, str) or type(engine).__name__ == "Celery":
        raise TypeError(
            "engine must be an engine: write engine=CeleryEngine(celery_app), with 'from "
            f"framework.engines.celery import CeleryEngine', not {checks.show(engine)}"
        )
    checks.methods("store", store, ("put", "get", "list", "remove"))
    checks.methods("engine", engine, ("start", "withdraw", "abandon", "run_inline"))


class FrameworkLifespan(AbstractAsyncContextManager[None]):
    """What `setup_async_framework` gives: a context to enter, or a lifespan for an app."""

    # Any: settings and parts are none of the public types
    def __init__(self, app: Starlette | None, settings: Any, parts: Any, grace: float) -> None:
        self._app = app
        self._settings: Settings = settings
        self._parts: Parts = parts
        self._grace = grace
        self._framework: Framework | None = None
        self._home: Home | None = None
        self._token: Token[Any] | None = None
        self._shim: _Shim | None = None

    def __call__(self, app: Starlette) -> FrameworkLifespan:
        """Return a set-up with the same settings for *app*, which calls this at each start.

        Raises:
            TypeError: If it was made for another app.
        """
        _check_app(app)
        if self._app is not None and self._app is not app:
            raise TypeError(
                "this lifespan was made for another app: leave the app out, as in FastAPI("
                "lifespan=setup_async_framework(max_workers=10)), or enter it inside a lifespan "
                "of your own, 'async with setup_async_framework(app, max_workers=10):'"
            )
        return FrameworkLifespan(app, self._settings, self._parts, self._grace)

    if not TYPE_CHECKING:  # checkers refuse a plain "with", as they should

        def __enter__(self):
            """Say which kind of ``with`` it needs."""
            raise TypeError(
                "setup_async_framework() needs a running event loop: write 'async with' in a "
                "coroutine instead of 'with'"
            )

        __exit__ = None

    async def __aenter__(self) -> None:
        if self._framework is not None:
            raise RuntimeError("this setup is in use already: call setup_async_framework() again")
        shared = override()
        if shared is not None:
            shared.adopt(self._settings)
        framework = Framework(self._parts, self._settings) if shared is None else shared
        self._framework = framework
        if shared is None and framework.reaches_out:
            try:
                await _in_thread(framework.connect, framework.core.clock)
            except BaseException:
                framework.close(0.0)
                self._framework = None
                raise
        if shared is None and not framework.reaches_out:
            _warn_of_siblings(worker_count(sys._getframe()))
        install_task_ids()
        self._home = home = Home(framework.core, self._app, asyncio.get_running_loop())
        if shared is not None:
            shared.take_rules(home, self._parts)
        framework.open(home)
        self._token = current_home.set(home)
        if self._app is not None:
            self._app.state.task_manager = framework.manager
            self._app.state.thread_pool = framework.pool
            self._shim = _Shim.put_on(self._app, home)
            warn_of_plain_endpoints(self._app)
            try:
                await _run_handlers(self._app, "on_startup")
            except BaseException:
                await self._stop()
                raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._app is not None:
                await _run_handlers(self._app, "on_shutdown")
        finally:
            await self._stop()

    async def _stop(self) -> None:
        framework, home = self._framework, self._home
        assert framework is not None and home is not None
        clock = framework.core.clock
        end = clock.monotonic() + self._grace
        alone = override() is not framework
        if alone:
            framework.core.wind_down()
        else:
            framework.core.schedules.leave(home)
        try:
            if alone and framework.core.remote is not None:
                await _in_thread(lambda: framework.hand_over(self._grace), clock)
            await drain(framework.core, home, max(0.0, end - clock.monotonic()))
        finally:
            framework.leave(home)
            if self._shim is not None and self._app is not None:
                self._shim.take_off(self._app)
            _reset(self._token)
            if alone:
                await _in_thread(lambda: framework.close(max(0.0, end - clock.monotonic())), clock)
            self._framework = None


def _warn_of_siblings(workers: int) -> None:
    """Say that workers whose tasks are in memory know nothing of one another's."""
    if workers > 1:
        _LOGGER.warning(
            "%d worker processes serve this app and each keeps its tasks in its own memory: it "
            "knows nothing of an id that another one gave; let them share a store, "
            "setup_async_framework(app, store=SQLStore('sqlite:///tasks.db'))",
            workers,
        )


async def _in_thread(call: Callable[[], None], clock: Clock) -> None:
    """Run *call*, which blocks, on a thread of its own, and end as it does."""
    done = LoopSleeper(clock)
    raised: list[BaseException] = []

    def body() -> None:
        try:
            call()
        except BaseException as error:  # raised again where it is awaited
            raised.append(error)
        finally:
            done.signal()

    thread = threading.Thread(target=body, name=thread_names.LIFESPAN, daemon=True)
    thread.start()
    await done.wait(None)
    thread.join()
    if raised:
        raise raised[0]


def _reset(token: Token[Any] | None) -> None:
    if token is None:
        return
    # Left in another context than entered, there is nothing to reset.
    with suppress(ValueError):
        current_home.reset(token)


class _Shim:
    """Tells every request of an app which home is its own; pure ASGI."""

    def __init__(self, inner: ASGIApp, home: Home, built: bool) -> None:
        self._inner = inner
        self._home = home
        self._built = built

    @classmethod
    def put_on(cls, app: Starlette, home: Home) -> _Shim:
        """Wrap the app's middleware stack, which is built if it is not yet."""
        built = app.middleware_stack is None
        inner: Any = app.build_middleware_stack() if built else app.middleware_stack
        shim = cls(inner, home, built)
        app.middleware_stack = shim
        return shim

    def take_off(self, app: Starlette) -> None:
        """Leave the app as it was, unless somebody has wrapped it once more."""
        current: object = app.middleware_stack
        if current is self:
            app.middleware_stack = None if self._built else self._inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection with the home in its context."""
        if scope["type"] == "lifespan" or self._home.closed:
            await self._inner(scope, receive, send)
            return
        token = current_home.set(self._home)
        try:
            await self._inner(scope, receive, send)
        except TypeError as error:
            explain_await(error)
            raise
        finally:
            current_home.reset(token)


async def _run_handlers(app: Starlette, which: str) -> None:
    """Run the app's event handlers that no router's own lifespan runs."""
    routers = _routers_with_default_lifespan(app.router.lifespan_context)
    if app.router in routers:
        return
    # Of an included router FastAPI keeps the lifespan and copies the handlers as well.
    run_by_others = [handler for router in routers for handler in getattr(router, which, ())]
    for handler in list(getattr(app.router, which, ())):
        if handler in run_by_others:
            continue
        result = handler()
        if inspect.isawaitable(result):
            await result


def _routers_with_default_lifespan(lifespan: object) -> list[object]:
    """Return the routers whose default lifespan *lifespan* is, or wraps.

    FastAPI merges lifespans of included routers into closures around the app's own.
    """
    found: list[object] = []
    pending, seen = [lifespan], set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if type(one).__name__ == "_DefaultLifespan":
            found.append(getattr(one, "_router", None))
        pending += [cell.cell_contents for cell in getattr(one, "__closure__", None) or ()]
        pending += [inner for inner in (getattr(one, "__wrapped__", None),) if inner is not None]
    return found
