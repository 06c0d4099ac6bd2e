"""Intake: makes tasks of calls, and hands them to the engine.

Guarantees: a call that does not fit is refused in the caller; a task that was added to the
ledger is handed to the engine, or is delayed, or ends FAILED.
Relies on: the ledger, which refuses tasks if the queue is full or the framework has stopped.
Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from types import FrameType
from typing import Any  # a task's function may take and return anything

from framework._manager.others.elsewhere import Elsewhere
from framework._manager.request_bound.arguments import require_lasting
from framework._manager.submitting.delays import Delays
from framework._manager.submitting.places import Places, may_wait
from framework._manager.submitting.securing import Securing
from framework._records import checks
from framework._records.ids import TaskId
from framework._records.reasons import delayed
from framework._records.records import TaskRecord
from framework._records.restart import Restart
from framework._records.statuses import CANCELLED, PENDING, TaskStatus
from framework._running.coroutines import Drive
from framework._running.ledger import Ledger
from framework._running.runner import Runner
from framework._running.waits.permits import Permits
from framework._tasks.current import current_home, current_record, hook_owner
from framework._tasks.live import Home, HomeCore, LiveTask
from framework._tasks.places import Existing
from framework._tasks.specs import TaskSpec
from framework._tasks.wire import encode_call, require_same_call
from framework.exceptions import TaskCancelledError
from framework.protocols import KeepingEngine, RemoteEngine


class Intake:
    """Makes tasks of one manager from checked calls.

    Args:
        ledger: Counts the tasks.
        runner: Hands them to the engine.
        delays: Keeps delayed tasks.
        places: Keeps tasks that wait for a place.
        elsewhere: See below.
        remote: The engine, if its tasks run in other processes; otherwise None.
        new_id: Returns a new task id.
        owner: The core of this manager, which its homes refer to.

    Attributes:
        homes: The homes of the apps, the latest first.
        elsewhere: Looks for tasks of other processes; None if there can be none.
        in_place: Whether a coroutine that is awaited as a task runs where it is awaited.
        durable: Whether a submission that can wait returns only when its task outlives this
            process; see `Securing`.
        permits: Starts tasks that other processes may take over; None if none may.
        default_limit: Time limit in seconds of tasks without their own; None for no limit.
    """

    def __init__(
        self,
        ledger: Ledger,
        runner: Runner,
        delays: Delays,
        places: Places,
        elsewhere: Elsewhere | None,
        remote: RemoteEngine | None,
        new_id: Callable[[], str],
        owner: HomeCore,
    ) -> None:
        self.ledger = ledger
        self.runner = runner
        self.new_id = new_id
        self.homes: list[Home] = []
        self.in_place = remote is None
        self.default_limit: float | None = None
        self.permits: Permits | None = None
        self.places = places
        self._delays = delays
        self.elsewhere = elsewhere
        self._remote = remote
        # Without its type: to mypy, no `RemoteEngine` has the optional method.
        engine: object = remote
        self._keeper: KeepingEngine | None = None
        if engine is not None and isinstance(engine, KeepingEngine):
            self._keeper = engine
        self.securing = Securing(ledger, runner, self._keeper, self._keep, self.cancel_pending)
        self.durable = self.securing.is_needed
        self._owner = owner
        self._guarded: Callable[[], object] | None = None
        # Whether anybody takes part in a submission before the ledger does.
        self._has_partners = runner.interceptor is not None or remote is not None
        self._joined = self._has_partners  # or it is guarded: most submissions read only this
        # Whether a task may belong to somebody; and whom that of a request belongs to.
        self._owned = False
        self._whose: Callable[[], str | None] | None = None
        # Bound once, since every submission calls both.
        self._monotonic, self._time = ledger.clock.monotonic, ledger.clock.time

    def guard(self, where: Callable[[], object]) -> None:
        """Refuse arguments that are closed with a request, wherever *where* returns a request."""
        self._guarded, self._joined = where, True

    def submit(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        awaited: bool = False,
    ) -> LiveTask | Existing:
        """Make a task of a checked call and hand it to the engine, as its spec says.

        Args:
            spec: What to run.
            args: Its positional arguments, already checked.
            kwargs: Its keyword arguments, already checked.
            frame: The frame of the caller.
            awaited: Whether its caller waits for it, and so does the request that runs here.
        """
        if spec.special:
            return self.submit_special(spec, args, kwargs, frame, awaited=awaited)
        task = self._new_task(spec, args, kwargs, frame, self.new_id())
        # The lines of `_add` again: every submission would pay for the call.
        if self._joined:
            if self._guarded and not awaited and self._guarded() is not None:
                require_lasting(spec, args, kwargs)
            if self._has_partners:
                self._join(task)
        self.ledger.add(task, None, True, True)
        if task.outbox is not None:
            self.ledger.flush_submitted(task)
        # Not `get_running_loop`, which raises an error outside a loop.
        if self.durable and asyncio._get_running_loop() is None:
            self.securing.wait(task)
        # The lines of `Runner.launch` in real time again, for the same reason.
        runner, kind = self.runner, spec.kind
        if runner.holds_clock:
            runner.launch(task)
            return task
        try:
            runner.engine.start(task, kind, runner.runs[kind])
        except Exception as error:  # its id is known already, so the task must end
            runner.refuse(task, error)
        return task

    submit_awaited = submit  # of a call that is awaited; `claims` replaces the other one

    def submit_special(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        launch: bool = True,
        repeated: TaskRecord | None = None,
        awaited: bool = False,
    ) -> LiveTask | Existing:
        """Submit a call as `submit` does, with the delay, the hooks and the id of its spec.

        Args:
            spec: What to run.
            args: Its positional arguments, already checked.
            kwargs: Its keyword arguments, already checked.
            frame: The frame of the caller.
            launch: Whether to call `launch`; if not, call it once the task is secured.
            repeated: The task that it repeats, whose owner it gets; None for none.
            awaited: As in `submit`.

        Raises:
            TypeError: If it needs arguments in JSON, or that outlive the request, and has none.
            ValueError: If the chosen id is in use, or the JSON is too long.
            StoreUnavailableError: If its record cannot be stored safely.
        """
        task = self._new_special(spec, args, kwargs, frame, repeated, awaited)
        if spec.claims:
            with self._reserved(spec.task_id):
                existing = self._claim(task)
            if existing is not None:
                if self.durable and asyncio._get_running_loop() is None:
                    self.securing.wait_until_known(existing)
                return existing
        elif spec.task_id is None:
            self._add(task)
        else:
            with self._reserved(spec.task_id):
                self._add(task)
        if launch:
            if self.durable and asyncio._get_running_loop() is None:
                self.securing.wait(task)
            self.launch(task)
        return task

    def _new_special(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        repeated: TaskRecord | None,
        awaited: bool,
    ) -> LiveTask:
        """Make a task with the hooks and the id of its spec."""
        # Others may wait for a unique task, which then outlives the request of its first caller.
        bound = awaited and not spec.options["unique"]
        if self._guarded and not bound and repeated is None and self._guarded() is not None:
            require_lasting(spec, args, kwargs)
        task_id = spec.task_id
        chosen = self.new_id() if task_id is None else task_id
        task = self._new_task(spec, args, kwargs, frame, chosen)
        task.hooks = spec.hooks
        if spec.requeue:
            self._keep_for_restart(task, args, kwargs)
        if spec.delay:
            task.reason = delayed(task.created_at + spec.delay)
        if repeated is not None:
            task.run_again_of = str(repeated.task_id)
            self.give(task, repeated.owner)
        else:
            self.give(task, spec.options["owner"])
        if self._owned and spec.claims:
            # What it is the only one of is its owner's.
            self._own(task)
        return task

    async def submit_patiently(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        repeated: TaskRecord | None = None,
        awaited: bool = False,
    ) -> LiveTask | Existing:
        """Submit a call of a unique or limited function, whatever has to be waited for.

        Raises:
            DuplicateTaskError: If there is such a task, and the options say so.
            StoreUnavailableError: If other processes cannot be asked.
            Exception: What `submit_special` raises.
        """
        task = self._new_special(spec, args, kwargs, frame, repeated, awaited)
        stay, add = self.places.prepare(task), partial(self._add, task)
        with self._reserved(spec.task_id):
            if stay.unique is None:
                add()
            elif (existing := await self.places.admit_patiently(task, add)) is not None:
                if self.durable:
                    await self.securing.until_known(existing)
                return existing
        if self.durable:
            await self.securing.until_safe(task)
        self.launch(task)
        return task

    @contextmanager
    def _reserved(self, task_id: str | None) -> Iterator[None]:
        """Reserve a chosen id until its task is added; None for an id that nobody has."""
        if task_id is None:
            yield
            return
        self.ledger.reserve(task_id)
        try:
            yield
        finally:
            self.ledger.release(task_id)

    def _claim(self, task: LiveTask) -> LiveTask | Existing | None:
        """Add a task that is unique or limited; return the one to use instead, if any."""
        stay, add = self.places.prepare(task), partial(self._add, task)
        if stay.unique is None:
            add()
            return None
        return self.places.admit(task, add)

    def offer(self, spec: TaskSpec, kwargs: dict[str, Any], frame: FrameType) -> LiveTask:
        """Make a task of a checked call, to `accept` once its run is claimed."""
        task = self._new_task(spec, (), kwargs, frame, self.new_id())
        task.hooks = spec.hooks
        task.remote = self._remote is not None
        if spec.requeue:
            self._keep_for_restart(task, (), kwargs)
        return task

    def accept(self, task: LiveTask) -> None:
        """Submit a task from `offer`; it has no owner."""
        self._add(task, owned=False)
        self.launch(task)

    def turn_away(self, task: LiveTask, error: BaseException, *, is_stored: bool) -> None:
        """Make an offered task FAILED that could not be accepted.

        Args:
            task: The task, which is not in the ledger.
            error: Why.
            is_stored: Whether other processes have seen it, so that they must see its end.
        """
        task.ended = self._monotonic()
        task.error, task.reason = error, "it could not be started"
        task.args = task.context = None
        # Not by the ledger, which has never counted it.
        task.status = TaskStatus.FAILED
        if is_stored and self.ledger.shared is not None:
            self.ledger.shared.put(task)
        elif is_stored and self._remote is not None:
            self._remote.request_cancel(task.task_id)

    def _keep_for_restart(
        self, task: LiveTask, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Keep what another process needs to run a task; without a store, only check it."""
        spec = task.spec
        call = encode_call(spec.fn, args, kwargs)
        require_same_call(spec.fn, args, kwargs)
        if self.permits is not None:
            task.restart = Restart(
                call,
                due=task.created_at + spec.delay if spec.delay else None,
                limit=task.limit,
                priority=spec.priority,
                idempotent=spec.options["idempotent"],
            )

    def launch(self, task: LiveTask) -> None:
        """Hand a submitted task to the engine, after the delay of its spec."""
        if self._keeper is not None and may_wait(task):
            self._keep(task)
        if task.spec.claims:
            self.places.launch(task)
        elif task.spec.delay:
            self._delays.delay(task, task.spec.delay)
        else:
            self.runner.launch(task)

    def _keep(self, task: LiveTask) -> None:
        """Hand a task that waits to an engine that can keep it, unless the engine has it."""
        if self._keeper is None or task.kept:
            return
        requests = () if task.stay is None else task.stay.requests
        due = task.created_at + task.spec.delay if task.spec.delay else None
        task.kept = self._keeper.keep(task, due, requests)

    def start_in_place(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        task: LiveTask | None = None,
    ) -> Drive:
        """Make a task of a checked call and start it right here, where it is awaited.

        It does not wait in a queue, so `queue_size` does not apply.

        Args:
            spec: What to run; its delay, hooks and id are ignored.
            args: Its positional arguments, already checked.
            kwargs: Its keyword arguments, already checked.
            frame: The frame of the caller.
            task: The task; None to make one.

        Returns:
            Its `Drive`: await it if it is suspended; if not, call `outcome`.
        """
        if task is None:
            task = self._new_task(spec, args, kwargs, frame, self.new_id())
        task.loop = asyncio.get_running_loop()
        ledger, runner, now = self.ledger, self.runner, task.created
        # Before the interceptor is called, to which it shows that the task does not queue.
        task.driver = driver = Drive(runner, task, True)
        if self._has_partners:
            self._join_in_place(task)
        if ledger.sinks:
            ledger.add(task, bounded=False, emit_submitted=True)
            if task.outbox is not None:
                ledger.flush(task)
            runner.start(task)
        else:
            # RUNNING at once: without sinks nobody sees it PENDING, and one lock is saved.
            ledger.add(task, now)
        driver.first_step(now)
        return driver

    def start_special_in_place(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
    ) -> Drive:
        """Start a call as `start_in_place` does, with the hooks and the id of its spec.

        Raises:
            ValueError: If the chosen id is in use.
        """
        chosen = spec.task_id
        task = self._new_task(spec, args, kwargs, frame, chosen or self.new_id())
        task.hooks = spec.hooks
        self.give(task, spec.options["owner"])
        if chosen is None:
            return self.start_in_place(spec, args, kwargs, frame, task)
        self.ledger.reserve(chosen)
        try:
            return self.start_in_place(spec, args, kwargs, frame, task)
        finally:
            self.ledger.release(chosen)

    def _add(self, task: LiveTask, bounded: bool = True, *, owned: bool = True) -> None:
        if self._has_partners:
            self._join(task, owned)
        self.ledger.add(task, None, bounded, True)
        if task.outbox is not None:
            self.ledger.flush_submitted(task)

    def _join(self, task: LiveTask, owned: bool = True) -> None:
        """Let all that take part in a submission do so: owner, interceptor and remote engine.

        Args:
            task: The new task.
            owned: Whether it may get an owner here.
        """
        if self._owned and owned:
            self._own(task)
        interceptor = self.runner.interceptor
        if interceptor is not None:
            interceptor.before_accept(task)
        if self._remote is not None:
            task.remote = True
            self._remote.admit(task)

    def _join_in_place(self, task: LiveTask) -> None:
        """Do as `_join` does for a task that runs where it is awaited: no engine sees it."""
        if self._owned:
            self._own(task)
        interceptor = self.runner.interceptor
        if interceptor is not None:
            interceptor.before_accept(task)

    # -- owners

    def own_by(self, whose: Callable[[], str | None] | None) -> None:
        """Ask *whose* from now on whom a task belongs to that is submitted outside of tasks.

        Args:
            whose: Called at each such submission, where it is made, on any thread or loop. It
                returns 1 to 255 printable characters, or None for no owner. What it raises reaches
                the caller, and the task is not submitted. None to ask nobody.
        """
        self._whose = whose
        if whose is not None:
            self._expect_owners()

    def give(self, task: LiveTask, owner: str | None) -> None:
        """Make a task belong to *owner* before it is added; those that it submits will, too."""
        if owner is not None:
            task.owner = owner
            self._expect_owners()

    def _expect_owners(self) -> None:
        """Give tasks owners from now on; submissions before pay nothing for it."""
        # In this order: a submission that sees the last flag looks at the others.
        self._owned = True
        self._joined = self._has_partners = True

    def _own(self, task: LiveTask) -> None:
        """Make a new task belong to its submitter's owner, or to that of the request."""
        if task.owner is not None or (task.rest is not None and task.run_again_of):
            return
        owner = self.owner_here()
        if owner is not None:
            task.owner = owner

    def owner_here(self) -> str | None:
        """Return the owner of a task that is submitted here; None for no owner."""
        hook, submitter = hook_owner.get(), current_record.get()
        if hook is not None:
            return hook[0]
        if submitter is not None:
            return submitter.owner
        if self._whose is None:
            return None
        return checks.owner("the owner of the request", self._whose())

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
        if home is None or home.core is not self._owner:
            home = self.home()
            # Inside the task, this framework is the current one.
            context.run(current_home.set, home)
        limit = spec.timeout
        if limit is None:
            limit = self.default_limit
        elif limit == math.inf:
            limit = None
        # An assignment for each field of `live.new_task`: every submission pays for this, and
        # would pay twice as much for a function or a constructor with a parameter for each.
        task = LiveTask()
        task.task_id = task_id if type(task_id) is TaskId else TaskId(task_id)
        task.label = spec.label
        task.status = PENDING
        task.created = task.queued = self._monotonic()
        task.created_at = self._time()
        task.attempts = task.bodies = 0
        task.code = frame.f_code
        task.instruction = frame.f_lasti
        task.spec = spec
        task.args = args
        # A dict for each task would be more work for the garbage collector.
        task.kwargs = kwargs or None
        task.context = context
        task.home = home
        task.limit = limit
        loop = home.loop
        task.loop = asyncio._get_running_loop() if loop is None else loop
        task.started = task.ended = task.result = task.rest = None
        task.limit_key = task.waiters = task.driver = task.handler = task.outbox = None
        return task

    # -- homes

    def home(self) -> Home:
        """Return the home of the latest app; without an app, a home that belongs to none."""
        try:
            return self.homes[0]
        except IndexError:  # no app yet, or the last one has just left
            home = Home(self._owner, None, None)
            self.add_home(home)
            return home

    def add_home(self, home: Home) -> None:
        """Accept tasks for *home*."""
        # In this order: a task of a home that the ledger does not know yet would not be found.
        self.ledger.add_home(home)
        # The latest app comes first: it gets the tasks that belong to no app.
        self.homes.insert(0, home)

    # -- cancelling

    def cancel_pending(self, task: LiveTask, reason: str) -> bool:
        """Make a task CANCELLED if it is still PENDING; it never starts then."""
        error = TaskCancelledError(task.task_id, task.name)
        if not self.runner.endings.end(
            task, CANCELLED, error=error, reason=reason, only_from=PENDING
        ):
            return False
        self.forget_delay(task)
        self.runner.engine.withdraw(task)
        self.runner.release_clock(task)
        return True

    def give_up(self, task: LiveTask | Existing) -> None:
        """Cancel a task because the coroutine that awaits it was cancelled."""
        if not isinstance(task, LiveTask) or not self.ledger.request_cancel(task):
            return
        reason = "the coroutine that awaited it was cancelled"
        if not self.cancel_pending(task, reason):
            task.reason = reason
            self.runner.endings.stop_body(task)

    def let_go(self, task: LiveTask, reason: str) -> bool:
        """Give a task to the other processes, if one of them may run it; see `Permits.let_go`."""
        return self.permits is not None and self.permits.let_go(task, reason)

    def forget(self, task: LiveTask) -> None:
        """Forget the delay and the places of a task that was given away."""
        self.forget_delay(task)
        if task.spec.claims:
            self.places.let_go(task)

    def forget_delay(self, task: LiveTask) -> None:
        """Forget the delay of a task, if it still waits for that."""
        if task.spec.delay:
            timer, task.timer = task.timer, None
            if timer is not None:
                timer.cancel()
            self._delays.forget(task)
