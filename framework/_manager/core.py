"""Core: what a manager is put together from, and what its parts do together.

Guarantees: a call that does not fit is refused in the caller; a task that is taken in
reaches the engine, or its time table, or ends FAILED.
Relies on: `ledger` for the bound and the refusal after the end.
Lock order: none of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from types import FrameType
from typing import Any

from framework._manager.elsewhere import Elsewhere
from framework._manager.schedules import Schedules
from framework._running.coroutines import Drive, runs_of
from framework._running.endings import Endings
from framework._running.ledger import Ledger, id_in_use
from framework._running.log import log_final, report_unread
from framework._running.pauses import Pauses
from framework._running.policies import Policies, WatchedPolicies
from framework._running.results import Results
from framework._running.runner import Runner
from framework._tasks.current import current_home
from framework._tasks.ids import TaskId
from framework._tasks.live import PENDING, Home, LiveTask, Waiter, new_task
from framework._tasks.records import EVENT_OF
from framework._tasks.specs import Hooks, TaskSpec
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework._threads.waiters import LoopWaiter, Mailboxes, ThreadWaiter
from framework.engines.local import LocalEngine
from framework.exceptions import FrameworkNotStartedError, TaskCancelledError
from framework.protocols import Clock, Interceptor, RemoteEngine, TaskEngine, TaskStore

_LOGGER = logging.getLogger("asyncframe")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an app asks for; see `setup_async_framework` for the fields.

    The pool's own bound and limit hold where these are wider or None.
    """

    max_workers: int | None = None
    task_timeout: float | None = None
    queue_size: int = 10_000
    result_ttl: float = 86_400.0
    max_finished_tasks: int = 100_000
    cleanup_interval: float = 60.0


class Core:
    """The parts of one task manager, put together.

    Args:
        pool: Where sync tasks run; shut down by its creator.
        clock: Time for everything.
        store: Where finished tasks are kept.
        engine: Where tasks run; None for *pool* and the apps' loops.
        interceptor: Takes part in every task; None for nobody.
        new_id: Makes task ids.
        rng: Randomness for jitter.
        limits: How much and how long.
        endings_type: Ends the tasks; a worker of a remote engine has its own.
        policies_type: The state of retries and throttles, without an interceptor.

    Attributes:
        remote: The engine, if its tasks run in other processes.
        in_place: Whether a coroutine that is awaited as a task runs where it is awaited.
        elsewhere: Asks for tasks of other processes; None if there can be none.
        durable: Whether a submission that can wait returns only once its record is safe.
        homes: The apps that it serves, the latest first.
        manager: What users see of it; set by whoever puts both together.
    """

    manager: object  # a TaskManager, which is made of this

    def __init__(
        self,
        *,
        pool: ThreadPoolExecutorEnhanced,
        clock: Clock,
        store: TaskStore,
        engine: TaskEngine | None,
        interceptor: Interceptor | None,
        new_id: Callable[[], str],
        rng: random.Random,
        limits: Limits,
        endings_type: type[Endings] = Endings,
        policies_type: type[Policies] = Policies,
    ) -> None:
        self.pool = pool
        self.clock = clock
        self._monotonic, self._time = clock.monotonic, clock.time
        self.new_id = new_id
        self.rng = rng
        self.boxes = Mailboxes()
        self.engine: TaskEngine = LocalEngine(pool, self.boxes) if engine is None else engine
        self.remote = engine if isinstance(engine, RemoteEngine) else None
        self.in_place = self.remote is None
        self.limits = limits
        self.ledger = Ledger(clock, store, limits.queue_size)
        shared = self.ledger.shared
        self.durable = shared is not None and shared.durable
        # The engine's word comes first: the store has it from one who heard the engine.
        directories = [one for one in (self.remote, shared) if one is not None]
        self.elsewhere = Elsewhere(directories, clock, self.boxes) if directories else None
        self.endings = endings_type(self.ledger, self.engine, limits.max_finished_tasks)
        self.runner = Runner(self.endings, self.boxes, self.engine, interceptor)
        self.runner.runs = runs_of(self.runner)
        if self.remote is not None:
            self.endings.retention.forget = self._forget_elsewhere
        pauses = Pauses(self.ledger, self.endings.limits)
        self.policies = (
            policies_type(clock, rng, pauses)
            if interceptor is None
            else WatchedPolicies(clock, rng, pauses, interceptor)
        )
        self.schedules = Schedules(self)
        self.apply(limits)
        self.results = Results(self.ledger, self.boxes, self.engine, pool._crew)
        self.homes: list[Home] = []
        if _LOGGER.isEnabledFor(logging.DEBUG):
            self.ledger.subscribe(log_final, EVENT_OF.values())

    def accept(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
    ) -> LiveTask:
        """Take a checked call in and hand it to the engine, as its spec says.

        Args:
            spec: What to run.
            args: Its positional arguments, which fit.
            kwargs: Its keyword arguments, which fit.
            frame: Who submits.
        """
        if spec.special:
            return self.accept_with(
                spec,
                args,
                kwargs,
                frame,
                task_id=spec.task_id,
                hooks=spec.hooks,
                delay=spec.delay,
            )
        task = self._new_task(spec, args, kwargs, frame, self.new_id())
        self._accept(task)
        if self.durable and asyncio._get_running_loop() is None:
            self.secure(task)
        self.runner.launch(task)
        return task

    def accept_with(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        *,
        task_id: str | None = None,
        hooks: Hooks | None = None,
        delay: float = 0.0,
        begin: bool = True,
    ) -> LiveTask:
        """Take a checked call in as `accept` does, with more to it.

        Args:
            spec: What to run; its own delay, hooks and id are not looked at.
            args: Its positional arguments, which fit.
            kwargs: Its keyword arguments, which fit.
            frame: Who submits.
            task_id: A chosen id, or None.
            hooks: What to call at the end: on completion, on anything else.
            delay: Seconds until it may start.
            begin: Whether to begin with it; else `begin` must be called once it is secured.

        Raises:
            ValueError: If the chosen id is in use.
            StoreUnavailableError: If its record cannot be made safe.
        """
        chosen = self.new_id() if task_id is None else task_id
        task = self._new_task(spec, args, kwargs, frame, chosen)
        task.hooks = hooks
        if delay:
            task.reason = f"delayed by {delay:g} s"
        if task_id is None:
            self._accept(task)
        else:
            self.ledger.reserve(task_id)
            try:
                self._accept(task)
            finally:
                self.ledger.release(task_id)
        if begin:
            if self.durable and asyncio._get_running_loop() is None:
                self.secure(task)
            self.begin(task, delay)
        return task

    async def require_free(self, task_id: object) -> None:
        """See that no other process has a task of this chosen id, as far as it is written.

        Raises:
            ValueError: If one has.
        """
        assert self.elsewhere is not None
        if isinstance(task_id, str) and await self.elsewhere.find(task_id, patient=False):
            raise id_in_use(task_id)

    def begin(self, task: LiveTask, delay: float) -> None:
        """Hand an accepted task to the engine, after *delay* seconds."""
        if delay:
            self.schedules.delay(task, delay)
        else:
            self.runner.launch(task)

    # -- making records safe; see `protocols.SharedStore.durable`

    def secure(self, task: LiveTask) -> None:
        """Block until a task's record is safe.

        Raises:
            StoreUnavailableError: If it is not made so in time; the task has ended FAILED.
        """
        waiter = ThreadWaiter(self.clock)
        error = self._secured_by(task, waiter)
        waiter.wait(None)
        self._require_secured(task, error)

    async def secured(self, task: LiveTask) -> None:
        """Suspend until a task's record is safe; raises as `secure`."""
        waiter = LoopWaiter(self.boxes)
        error = self._secured_by(task, waiter)
        try:
            await waiter.future
        except asyncio.CancelledError:
            # Whoever submits has gone and will never know the id.
            self.cancel_pending(task, "its submission was cancelled")
            raise
        self._require_secured(task, error)

    def _secured_by(self, task: LiveTask, waiter: Waiter) -> list[BaseException | None]:
        """Have *waiter* woken once it is known; return where the error stands then."""
        shared = self.ledger.shared
        assert shared is not None
        error: list[BaseException | None] = []

        def told(why: BaseException | None) -> None:
            error.append(why)
            waiter.wake()

        shared.secure(task, told)
        return error

    def _require_secured(self, task: LiveTask, error: list[BaseException | None]) -> None:
        if error[0] is not None:
            self.runner.refuse(task, error[0])
            raise error[0]

    def drive(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        task: LiveTask | None = None,
    ) -> Drive:
        """Take a checked call in and begin with it right here, where it is awaited.

        It never waits, so the bound of waiting tasks is not for it.

        Args:
            spec: What to run; its own delay, hooks and id are not looked at.
            args: Its positional arguments, which fit.
            kwargs: Its keyword arguments, which fit.
            frame: Who submits.
            task: The task, if it is made already.

        Returns:
            What goes on with it if it is suspended, and else has what its awaiter gets.
        """
        if task is None:
            task = self._new_task(spec, args, kwargs, frame, self.new_id())
        task.loop = asyncio.get_running_loop()
        ledger, runner, now = self.ledger, self.runner, task.created
        if runner.interceptor is not None:
            runner.interceptor.before_accept(task)
        if ledger.sinks:
            ledger.accept(task, bounded=False, told=True)
            if task.outbox is not None:
                ledger.tell(task)
            runner.start(task)
        else:
            ledger.accept(task, now)
        task.driver = driver = Drive(runner, task, True)
        driver.begin(now)
        return driver

    def drive_special(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
    ) -> Drive:
        """Do as `drive` does, under the id and with the hooks of the spec.

        Raises:
            ValueError: If the chosen id is in use.
        """
        chosen = spec.task_id
        task = self._new_task(spec, args, kwargs, frame, chosen or self.new_id())
        task.hooks = spec.hooks
        if chosen is None:
            return self.drive(spec, args, kwargs, frame, task)
        self.ledger.reserve(chosen)
        try:
            return self.drive(spec, args, kwargs, frame, task)
        finally:
            self.ledger.release(chosen)

    def _accept(self, task: LiveTask) -> None:
        ledger, interceptor = self.ledger, self.runner.interceptor
        if interceptor is not None:
            interceptor.before_accept(task)
        if self.remote is not None:
            task.remote = True
            self.remote.admit(task)
        ledger.accept(task, told=True)
        if task.outbox is not None:
            ledger.tell(task)

    def _new_task(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        task_id: str,
    ) -> LiveTask:
        context = copy_context()
        home: Home | None = current_home.get()
        if home is None or home.core is not self:
            home = self.home()
            # So that inside the task this is the framework that is meant.
            context.run(current_home.set, home)
        limit = spec.timeout
        if limit is None:
            limit = self._default_limit
        elif limit == math.inf:
            limit = None
        task = new_task(
            task_id if type(task_id) is TaskId else TaskId(task_id),
            spec,
            args,
            kwargs or None,
            context,
            home,
            limit,
            self._monotonic(),
            self._time(),
            frame.f_code,
            frame.f_lasti,
        )
        if task.loop is None:
            task.loop = asyncio._get_running_loop()
        return task

    def home(self) -> Home:
        """Return the latest app's home, or one for tasks submitted before any app."""
        try:
            return self.homes[0]
        except IndexError:  # no app yet, or the last one has just left
            home = Home(self, None, None)
            self.add_home(home)
            return home

    def add_home(self, home: Home) -> None:
        """Let tasks belong to *home*."""
        # The latest app comes first: it is the one meant where nothing else says so.
        self.homes.insert(0, home)
        self.ledger.add_home(home)

    # -- letting tasks go

    def cancel_pending(self, task: LiveTask, reason: str) -> bool:
        """End a task CANCELLED if it is still PENDING; it then never starts."""
        error = TaskCancelledError(task.task_id, task.name)
        if not self.endings.end(task, "cancel", error=error, reason=reason, only_from=PENDING):
            return False
        timer, task.timer = task.timer, None
        if timer is not None:
            timer.cancel()
        self.schedules.undelay(task)
        self.engine.withdraw(task)
        self.runner.let_go(task)
        return True

    def release_remote(self) -> None:
        """Let go of the remote tasks that were published: they go on without this process.

        Whoever waits for one is woken; it is not final.
        """
        for task in self.ledger.all_live():
            if task.remote and not self.schedules.is_delayed(task):
                self.ledger.release_task(task)
                self.runner.let_go(task)

    def _forget_elsewhere(self, task_ids: list[str]) -> None:
        """Have finished tasks forgotten by the remote engine, too, a moment later."""
        remote, elsewhere = self.remote, self.elsewhere
        assert remote is not None
        assert elsewhere is not None
        with suppress(FrameworkNotStartedError):  # then it forgets them by their age
            elsewhere.post(lambda: remote.forget(task_ids))

    # -- beginning and ending

    def apply(self, limits: Limits) -> None:
        """Take over other limits; the pool's bound still holds if it is narrower."""
        self.limits = limits
        own = self.pool.queue_size
        self.ledger.queue_size = limits.queue_size if own is None else min(own, limits.queue_size)
        self.endings.retention.max_finished = limits.max_finished_tasks
        limit = self.pool.task_timeout if limits.task_timeout is None else limits.task_timeout
        self._default_limit = None if limit == math.inf else limit
        if limits.max_workers is not None:
            self.pool._crew.max_workers = limits.max_workers

    def start(self) -> None:
        """Begin the periodic clean-up and the schedules; by whoever made the manager."""
        self.schedules.start()

    def stop(self) -> None:
        """Take no tasks any more and let go of every timer; drain before, if at all.

        Failures that nobody has read are logged. Harmless to call twice.
        """
        with self.ledger.lock:
            if self.ledger.state == "stopped":
                return
            self.ledger.state = "stopped"
        self.policies.close()
        self.schedules.stop()
        self.endings.limits.close()
        if self.elsewhere is not None:
            self.elsewhere.close()
        for record in self.ledger.store.list():
            report_unread(record)

    def forget(self) -> None:
        """Refuse everything in a forked child, where neither threads nor loop exist."""
        self.ledger.forget()
