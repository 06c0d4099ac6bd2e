"""Intake: makes tasks of calls, and hands them to the engine.

Guarantees: a call that does not fit is refused in the caller; a task that was added to the
ledger is handed to the engine, or is held by a partner, or ends FAILED.
Relies on: the ledger, which refuses tasks if the queue is full or the framework has stopped.
Lock order: none is held here but those of partners; see `partner`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from types import FrameType
from typing import Any  # a task's function may take and return anything

from framework._manager.submitting.partner import (
    Awaited,
    Joined,
    KnownMoments,
    Moments,
    Partner,
)
from framework._records.ids import TaskId, random_id
from framework._records.records import TaskRecord
from framework._records.statuses import PENDING, TaskStatus
from framework._running.coroutines import Drive
from framework._running.endings import Ends
from framework._running.runner import NOT_STARTED, Runner
from framework._tasks.current import hook_owner
from framework._tasks.live import Home, HomeCore, LiveTask, current_home
from framework._tasks.places import Existing
from framework._tasks.specs import TaskSpec
from framework._threads.waiters import Reply, Steps, block, suspend
from framework.protocols import RemoteEngine


class Intake:
    """Makes tasks of one manager from checked calls.

    There are three ways in: `submit`, `submit_patiently` and `start_in_place`. `offer` and
    `accept` are the halves of the first one; see `together` for several calls.

    Args:
        runner: Hands tasks to the engine; has the ledger, which counts them.
        ends: Is told which tasks are launched.
        partners: All that may take part in a submission, in their order.
        joined: Those that take part in each.
        remote: The engine, if its tasks run in other processes; otherwise None.
        new_id: Returns a new task id.
        owner: The core of this manager, which its homes refer to.
        in_place: Whether a coroutine that is awaited as a task runs where it is awaited.

    Attributes:
        homes: The homes of the apps, the latest first.
        in_place: As above.
        default_limit: Time limit in seconds of tasks without their own; None for no limit.

    Raises:
        ValueError: If a partner may wait after one that holds a lock.
    """

    def __init__(
        self,
        runner: Runner,
        ends: Ends,
        partners: Sequence[Partner],
        joined: Joined,
        remote: RemoteEngine | None,
        new_id: Callable[[], str],
        owner: HomeCore,
        *,
        in_place: bool,
    ) -> None:
        self.ledger = runner.ledger
        self.runner = runner
        self.new_id = new_id
        self.homes: list[Home] = []
        self.in_place = in_place
        self.default_limit: float | None = None
        self._ends = ends
        self._remote = remote
        self._owner = owner
        self._partners, self._joined = partners, joined
        # The same lists, which every submission looks at.
        self._checks, self._always = joined.checks, joined.partners
        # Now, so that a wrong order is seen at once.
        Moments(partners, self._launch)
        self._find_anew()
        joined.when_joined(self._find_anew)
        self._new_task_id = new_id if new_id is random_id else lambda: TaskId(new_id())
        self._engine, self._runs, self._holds_clock = runner.engine, runner.runs, runner.holds_clock
        # Bound once, since every submission calls both.
        self._monotonic, self._time = self.ledger.clock.monotonic, self.ledger.clock.time

    # -- the ways in

    def submit(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        awaited: Awaited = False,
    ) -> LiveTask | Existing:
        """Make a task of a checked call and hand it to the engine, as its spec says.

        On the thread of an event loop it waits for nothing.

        Args:
            spec: What to run.
            args: Its positional arguments, already checked.
            kwargs: Its keyword arguments, already checked.
            frame: The frame of the caller.
            awaited: How its caller waits for its end.

        Raises:
            TypeError: If it needs arguments in JSON, or that outlive the request, and has none.
            ValueError: If the chosen id is in use, or the JSON is too long.
            DuplicateTaskError: If there is such a task, and the options say so.
            StoreUnavailableError: If its record cannot be stored safely.
        """
        for check in self._checks:
            spec = check(spec, args, kwargs, awaited)
        task = self._new_task(spec, args, kwargs, frame)
        if spec.special or self._always:
            moments = self._moments[spec.special]
            moments.make(task)
            if not moments.only_make:
                return self.submit_made(task)
        self.ledger.add(task)
        if task.outbox is not None:
            self.ledger.flush_submitted(task)
        # The lines of `Runner.launch` in real time again, since every submission would pay.
        if self._holds_clock:
            self.runner.launch(task)
            return task
        try:
            self._engine.start(task, spec.kind, self._runs[spec.kind])
        except Exception as error:  # its id is known already, so the task must end
            self.runner.refuse(task, error)
        return task

    def submit_made(self, task: LiveTask) -> LiveTask | Existing:
        """Submit a task that is made, and in which partners may take part."""
        moments = self._moments[task.spec.special]
        # Not `get_running_loop`, which raises an error outside a loop.
        if moments.may_wait and asyncio._get_running_loop() is None:
            return block(self.steps_of_made(task))
        if moments.entering:
            other = self._enter(task, moments, False, self._add, [])
            if other is not None:
                assert not isinstance(other, Reply)
                return other
        else:
            self._add(task, True)
        moments.launch(task)
        return task

    async def submit_patiently(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frame: FrameType,
        awaited: Awaited = False,
        repeated: TaskRecord | None = None,
    ) -> LiveTask | Existing:
        """Submit a call as `submit` does, whatever has to be waited for.

        Args:
            spec: What to run.
            args: Its positional arguments, already checked.
            kwargs: Its keyword arguments, already checked.
            frame: The frame of the caller.
            awaited: How its caller waits for its end.
            repeated: The task that it repeats, whose owner it gets, and all that this says of
                itself, and from whose steps it goes on if it is one that does; None for none.

        Raises:
            Exception: What `submit` raises.
        """
        for check in self._checks:
            spec = check(spec, args, kwargs, awaited)
        task = self._new_task(spec, args, kwargs, frame)
        if repeated is not None:
            task.run_again_of, task.owner = str(repeated.task_id), repeated.owner
            task.describe(repeated.label, repeated.meta, repeated.arguments)
            # A store copies what it keeps of them itself, see `protocols.StepStore`.
            if self.ledger.features.steps is None and isinstance(repeated, LiveTask):
                _go_on(task, repeated)
        self._moments[spec.special].make(task)
        return await suspend(self.steps_of_made(task))

    def made(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
    ) -> LiveTask:
        """Make a task of a checked call, which `submit_made` or `steps_of_made` submits."""
        for check in self._checks:
            spec = check(spec, args, kwargs, False)
        task = self._new_task(spec, args, kwargs, frame)
        self._moments[spec.special].make(task)
        return task

    def start_in_place(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
    ) -> Drive:
        """Make a task of a checked call and start it right here, where it is awaited.

        It does not wait in a queue, so `queue_size` does not apply.

        Args:
            spec: What to run; its delay and places are ignored.
            args: Its positional arguments, already checked.
            kwargs: Its keyword arguments, already checked.
            frame: The frame of the caller.

        Returns:
            Its `Drive`: await it if it is suspended; if not, call `outcome`.

        Raises:
            ValueError: If the chosen id is in use.
        """
        task = self._new_task(spec, args, kwargs, frame)
        task.loop = asyncio.get_running_loop()
        # Before the interceptor is called, to which it shows that the task does not queue.
        task.driver = driver = Drive(self.runner, task, True)
        if spec.special or self._always:
            moments = self._moments_in_place[spec.special]
            moments.make(task)
            if moments.entering:
                self._enter(task, moments, False, self._add_in_place, [])
            else:
                self._add_in_place(task, False)
        else:
            self._add_in_place(task, False)
        driver.first_step(task.created)
        return driver

    def offer(self, spec: TaskSpec, kwargs: dict[str, Any], frame: FrameType) -> LiveTask:
        """Make a task of a checked call without an owner, to `accept` it later."""
        task = self._new_task(spec, (), kwargs, frame)
        context = copy_context()
        context.run(hook_owner.set, (None,))
        context.run(self._moments[spec.special].make, task)
        return task

    def accept(self, task: LiveTask) -> None:
        """Submit a task from `offer`; it waits for nothing, and has no owner."""
        moments = self._moments[task.spec.special]
        self._enter(task, moments, False, self._add, [])
        moments.launch(task)

    def turn_away(self, task: LiveTask, error: BaseException, *, is_stored: bool) -> None:
        """Make an offered task FAILED that could not be accepted.

        Args:
            task: The task, which is not in the ledger.
            error: Why.
            is_stored: Whether other processes have seen it, so that they must see its end.
        """
        task.ended = self._monotonic()
        task.error, task.reason = error, NOT_STARTED
        task.args = task.context = None
        # Not by the ledger, which has never counted it.
        task.status = TaskStatus.FAILED
        if is_stored and self.ledger.shared is not None:
            self.ledger.shared.put(task)
        elif is_stored and self._remote is not None:
            self._remote.request_cancel(task.task_id)

    def resume(self, task: LiveTask) -> None:
        """Go on with a submission that another process began; the ledger has the task."""
        for resume in self._moments[task.spec.special].resuming:
            resume(task)

    def launch(self, task: LiveTask) -> None:
        """Hand a submitted task to the engine, unless a partner holds it."""
        self._moments[task.spec.special].launch(task)

    # -- the moments of a submission

    def _find_anew(self) -> None:
        """Forget who takes part in which submissions; called when a partner has joined."""
        # New ones: who fills the old ones may not have seen the partner.
        self._moments = KnownMoments(self._moments_of)
        self._moments_in_place = KnownMoments(partial(self._moments_of, in_place=True))

    def _moments_of(self, special: tuple[str, ...], *, in_place: bool = False) -> Moments:
        """Return what to call at each moment of submissions with certain options."""
        partners = [
            one
            for one in self._partners
            if (one in self._always or not set(one.options).isdisjoint(special))
            and (one.in_place or not in_place)
        ]
        return Moments(partners, self._launch, special)

    def steps_of_made(self, task: LiveTask) -> Steps[LiveTask | Existing]:
        """Submit a task that is made patiently; return it, or another one to use instead."""
        moments = self._moments[task.spec.special]
        asked: list[Partner] = []
        other = self._enter(task, moments, True, self._add, asked)
        while isinstance(other, Reply):
            try:
                yield other.wait
            except BaseException:  # the caller was cancelled
                _settle(asked, task, False)
                raise
            other = self._enter(task, moments, True, self._add, asked)
        used = task if other is None else other
        for secure in moments.securing:
            yield from secure(used, other is None)
        if other is None:
            moments.launch(task)
        return used

    def _enter(
        self,
        task: LiveTask,
        moments: Moments,
        patient: bool,
        add: Callable[[LiveTask, bool], None],
        asked: list[Partner],
    ) -> Reply[Any] | LiveTask | Existing | None:
        """Let the ledger take a task, unless a partner knows another one to use instead.

        Args:
            task: The task.
            moments: Has the partners, which are settled.
            patient: Whether the caller can wait.
            add: Lets the ledger take the task, if it has room or need not have.
            asked: Gets those that have answered; of the last call, if its reply has come.

        Returns:
            A reply to wait for, if the caller is patient: call this again when it has come. Or
            the other task; None if the ledger has taken this one.
        """
        left, bounded, added, answer = moments.entering, True, False, None
        try:
            if asked:  # and the last of them has waited
                left, bounded = left[len(asked) :], False
                answer = asked[-1].enter(task, patient)
            if answer is None:
                for partner in left:
                    answer = partner.enter(task, patient)
                    asked.append(partner)
                    if answer is not None:
                        break
                else:
                    add(task, bounded)
                    added = True
        finally:
            if answer is None or not isinstance(answer, Reply):
                _settle(asked, task, added)
        return answer

    def _launch(self, task: LiveTask) -> None:
        """Launch a task that no partner holds any more."""
        if self._ends.launches(task):
            self.runner.launch(task)

    def _add(self, task: LiveTask, bounded: bool) -> None:
        self.ledger.add(task, None, bounded)
        if task.outbox is not None:
            self.ledger.flush_submitted(task)

    def _add_in_place(self, task: LiveTask, _: bool) -> None:
        ledger = self.ledger
        if not ledger.sinks:
            # RUNNING at once: without sinks nobody sees it PENDING, and one lock is saved.
            ledger.add(task, task.created)
            return
        ledger.add(task, None, False)
        if task.outbox is not None:
            ledger.flush(task)
        self.runner.start(task)

    def _new_task(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
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
        task.task_id = self._new_task_id()
        task.heading = spec.heading
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


def _go_on(task: LiveTask, repeated: LiveTask) -> None:
    """Give a task what another one has left that has ended."""
    task.steps = None if repeated.steps is None else repeated.steps.carried()
    task.messages = None if repeated.messages is None else repeated.messages.carried()


def _settle(asked: list[Partner], task: LiveTask, added: bool) -> None:
    """Settle all that were asked, the last first, even if one of them raises an error."""
    while asked:
        try:
            asked.pop().settle(task, added)
        except BaseException:
            _settle(asked, task, added)
            raise
