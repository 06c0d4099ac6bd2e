"""Intake: what a manager is put together from, and how it takes tasks in.

Guarantees: a call that does not fit is refused in the caller; a task that is taken in
reaches the engine, or its time table, or ends FAILED.
Relies on: `_ledger` for the bound and the refusal after the end.
Lock order: none of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from types import FrameType
from typing import Any, Literal, TypeVar, overload

from framework import _checks
from framework._calls import TaskSpec, layer_of, require_arguments, require_callable, spec_for
from framework._clock import SystemClock
from framework._context import current_home
from framework._delivery import Mailboxes
from framework._driving import Drive, runs_of
from framework._ids import random_id
from framework._ledger import Home, Ledger
from framework._logging import log_final
from framework._policies import Policies
from framework._pool import ThreadPoolExecutorEnhanced
from framework._records import Origin
from framework._results import Results
from framework._running import Runner
from framework._schedules import Schedules
from framework._task import LiveTask, Task, TaskId
from framework.engines.local import LocalEngine
from framework.protocols import Clock, Interceptor, TaskEngine, TaskStore
from framework.stores.memory import MemoryStore

T = TypeVar("T")

_LOGGER = logging.getLogger("asyncframe")


class Intake:
    """The part of a `TaskManager` that takes tasks in; see there for the parameters."""

    def __init__(
        self,
        pool: ThreadPoolExecutorEnhanced,
        *,
        clock: Clock | None = None,
        store: TaskStore | None = None,
        engine: TaskEngine | None = None,
        interceptor: Interceptor | None = None,
        task_timeout: float | None = None,
        queue_size: int = 10_000,
        result_ttl: float = 86_400.0,
        max_finished_tasks: int = 100_000,
        cleanup_interval: float = 60.0,
        new_id: Callable[[], str] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.pool = pool
        self.clock: Clock = SystemClock() if clock is None else clock
        self.new_id: Callable[[], str] = random_id if new_id is None else new_id
        self.rng = random.Random() if rng is None else rng
        self.boxes = Mailboxes()
        self.engine: TaskEngine = LocalEngine(pool, self.boxes) if engine is None else engine
        self.task_timeout = task_timeout
        self.result_ttl = result_ttl
        self.cleanup_interval = cleanup_interval
        self.ledger = Ledger(self.clock, MemoryStore() if store is None else store, queue_size)
        self.runner = Runner(self.ledger, self.boxes, self.engine, interceptor, max_finished_tasks)
        self.runner.runs = runs_of(self.runner)
        self.policies = Policies(self.clock, self.rng, self.runner)
        self.schedules = Schedules(self)
        self.results = Results(self.ledger, self.boxes, self.engine, pool.crew.waits)
        self.homes: list[Home] = []
        if _LOGGER.isEnabledFor(logging.DEBUG):
            self.ledger.subscribe(log_final)

    # -- taking tasks in

    @overload
    async def submit(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        description: str | None = None,
        wait: Literal[False] = False,
        task_id: str | None = None,
        on_complete: Callable[[Task], object] | None = None,
        on_error: Callable[[Task], object] | None = None,
        delay: float = 0.0,
    ) -> TaskId[T]: ...

    @overload
    async def submit(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        description: str | None = None,
        wait: Literal[True],
        task_id: str | None = None,
        on_complete: Callable[[Task], object] | None = None,
        on_error: Callable[[Task], object] | None = None,
        delay: float = 0.0,
    ) -> T: ...

    @overload
    async def submit(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        description: str | None = None,
        wait: Literal[False] = False,
        task_id: str | None = None,
        on_complete: Callable[[Task], object] | None = None,
        on_error: Callable[[Task], object] | None = None,
        delay: float = 0.0,
    ) -> TaskId[T]: ...

    @overload
    async def submit(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        description: str | None = None,
        wait: Literal[True],
        task_id: str | None = None,
        on_complete: Callable[[Task], object] | None = None,
        on_error: Callable[[Task], object] | None = None,
        delay: float = 0.0,
    ) -> T: ...

    async def submit(
        self,
        func: Callable[..., Any],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        description: str | None = None,
        wait: bool = False,
        task_id: str | None = None,
        on_complete: Callable[[Task], object] | None = None,
        on_error: Callable[[Task], object] | None = None,
        delay: float = 0.0,
    ) -> Any:
        """Take ``func(*args, **kwargs)`` in as a task and return its id.

        No keyword of the task's own is ever taken for one of these options.

        Args:
            func: A function, sync (runs in the pool) or async (runs on the app's loop).
            args: Positional arguments, a tuple or list; None for none. Shared with the
                caller, not copied.
            kwargs: Keyword arguments; None for none.
            timeout: Limit in seconds, above 0, from the start of its run; None for the
                framework's, infinity for none.
            description: A text for people; None for the function's own.
            wait: Whether to wait and return the result instead of the id.
            task_id: An id of your own, not in use; None for a random one.
            on_complete: Called with the task once it is COMPLETED, on the thread or loop
                that completed it. What it raises is logged.
            on_error: The same for every other end.
            delay: Seconds, 0 or more, that it stays PENDING at least.

        Returns:
            The id; with *wait* the result. Whoever is cancelled while waiting leaves the
            task as it is.

        Raises:
            TypeError: If *func* cannot be a task, or its arguments do not fit.
            ValueError: If a number is out of range, or *task_id* is in use.
            QueueFullError: If as many tasks are PENDING as may be.
            FrameworkNotStartedError: If the framework is stopping or stopped.
            BaseException: With *wait*, what `get_result` raises.
        """
        _checks.flag("wait", wait)
        task = self._submit(
            sys._getframe(1), func, args, kwargs, timeout, description, task_id,
            on_complete, on_error, delay,
        )  # fmt: skip
        if not wait:
            return task.task_id
        return await self.results.get(task, None)

    @overload
    def submit_nowait(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        description: str | None = None,
        task_id: str | None = None,
        on_complete: Callable[[Task], object] | None = None,
        on_error: Callable[[Task], object] | None = None,
        delay: float = 0.0,
    ) -> TaskId[T]: ...

    @overload
    def submit_nowait(
        self,
        func: Callable[..., T],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        description: str | None = None,
        task_id: str | None = None,
        on_complete: Callable[[Task], object] | None = None,
        on_error: Callable[[Task], object] | None = None,
        delay: float = 0.0,
    ) -> TaskId[T]: ...

    def submit_nowait(
        self,
        func: Callable[..., Any],
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        description: str | None = None,
        task_id: str | None = None,
        on_complete: Callable[[Task], object] | None = None,
        on_error: Callable[[Task], object] | None = None,
        delay: float = 0.0,
    ) -> TaskId[Any]:
        """Take a task in as `submit` does, without a loop and from any thread."""
        task = self._submit(
            sys._getframe(1), func, args, kwargs, timeout, description, task_id,
            on_complete, on_error, delay,
        )  # fmt: skip
        return TaskId(task.task_id)

    def _submit(
        self,
        frame: FrameType,
        func: Callable[..., Any],
        args: object,
        kwargs: object,
        timeout: float | None,
        description: str | None,
        task_id: str | None,
        on_complete: Callable[[Task], object] | None,
        on_error: Callable[[Task], object] | None,
        delay: float,
    ) -> LiveTask:
        spec = self._spec(func)
        if timeout is not None or description is not None:
            spec = spec.replace(
                timeout=_checks.limit("timeout", timeout),
                description=None
                if description is None
                else _checks.text("description", description),
            )
        positional, named = require_arguments(args, kwargs)
        if spec.check is not None:
            spec.check(*positional, **named)
        if task_id is not None and not _checks.text("task_id", task_id):
            raise ValueError("task_id must be a text of at least one character, not ''")
        hooks = (on_complete, on_error)
        for name, hook in zip(("on_complete", "on_error"), hooks, strict=True):
            if hook is not None and not callable(hook):
                raise TypeError(
                    f"{name} must be a function of the task or None, not {_checks.show(hook)}"
                )
        pause = _checks.number("delay", delay, at_least=0) or spec.delay
        return self.accept(
            spec,
            positional,
            named,
            frame,
            task_id=task_id,
            hooks=hooks if on_complete is not None or on_error is not None else None,
            delay=pause,
        )

    @staticmethod
    def _spec(func: Callable[..., Any]) -> TaskSpec:
        if layer_of(func) in ("background_task", "async_task"):
            # Submitted as what it is, so that one call makes one task and not two.
            spec = func.__asyncframe_spec__  # type: ignore[attr-defined]  # set by the decorator
            assert isinstance(spec, TaskSpec)
            return spec
        return spec_for(require_callable("submit", func))

    def accept(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        *,
        task_id: str | None = None,
        hooks: tuple[Any, Any] | None = None,
        delay: float = 0.0,
    ) -> LiveTask:
        """Take a checked call in and hand it to the engine; for decorators.

        Args:
            spec: What to run.
            args: Its positional arguments, which fit.
            kwargs: Its keyword arguments, which fit.
            frame: Who submits.
            task_id: A chosen id, or None.
            hooks: What to call at the end: on completion, on anything else.
            delay: Seconds until it may start.
        """
        task = self._new_task(spec, args, kwargs, frame, task_id)
        task.hooks = hooks
        if self.runner.interceptor is not None:
            self.runner.interceptor.before_accept(task)
        if delay:
            task.reason = f"delayed by {delay:g} s"
        self.ledger.accept(task)
        if self.ledger.sinks:
            self.ledger.emit("submitted", task)
        if delay:
            self.schedules.delay(task, delay)
        else:
            self.runner.launch(task)
        return task

    def drive(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
    ) -> Drive:
        """Take a checked call in and return what runs it where it is awaited.

        It never waits, so the bound of waiting tasks is not for it.
        """
        task = self._new_task(spec, args, kwargs, frame, None)
        task.loop = asyncio.get_running_loop()
        if self.runner.interceptor is not None:
            self.runner.interceptor.before_accept(task)
        self.ledger.accept(task, bounded=False)
        if self.ledger.sinks:
            self.ledger.emit("submitted", task)
        task.driver = driver = Drive(self.runner, task, in_place=True)
        return driver

    def _new_task(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        task_id: str | None,
    ) -> LiveTask:
        if task_id is None:
            task_id = self.new_id()
        else:
            self.ledger.require_free(task_id)
        task = LiveTask(
            TaskId(task_id),
            spec,
            args,
            kwargs,
            context=copy_context(),
            home=self._home(),
            created=self.clock.monotonic(),
            created_at=self.clock.time(),
            origin=Origin(frame.f_code, frame.f_lasti),
        )
        if task.limit is None:
            task.limit = self.pool.task_timeout if self.task_timeout is None else self.task_timeout
        if task.limit == math.inf:
            task.limit = None
        if task.loop is None:
            task.loop = asyncio._get_running_loop()
        return task

    def _home(self) -> Home:
        home: Home | None = current_home.get()
        if home is not None and home.manager is self:
            return home
        homes = self.homes
        return homes[0] if homes else self._homeless()

    def _homeless(self) -> Home:
        """Return a home for tasks submitted before any app has set itself up."""
        home = Home(self, None, None)
        self.homes.append(home)
        return home
