"""A small framework inside a worker's process: it runs deliveries and reports to Redis.

The same runner as in an app runs the functions: a sync function on the thread that the worker
called, a coroutine on an event loop. So states, errors and cancellation mean the same as there.

Guarantees: only the process with the lease of a task runs it; a lease is renewed while the
function runs; an outcome is in Redis before the message is acknowledged.
Relies on: a worker that calls `run` on one thread at a time, or on several with soft limits.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import types
from contextvars import Context
from dataclasses import dataclass, replace
from traceback import walk_stack
from typing import Any, Final

from framework._manager.core import Parts
from framework._manager.frameworks import Framework
from framework._manager.settings import Settings
from framework._records.ids import TaskId
from framework._records.jsonsafe import safe_str
from framework._records.records import TaskEvent
from framework._records.statuses import COMPLETED, FAILED, TIMEOUT, TaskStatus
from framework._running.endings import Endings
from framework._running.log import install_task_fields
from framework._running.outcomes import PublishAgain
from framework._tasks import wire
from framework._tasks.errors.kept import encode_error
from framework._tasks.live import CARRIED, Home, LiveTask, Waiter, current_home, new_task
from framework._tasks.specs import TaskSpec
from framework._threads.clock import SystemClock
from framework._threads.courier import Courier
from framework._threads.loggers import SafeLogger
from framework._threads.watch.stacks import place
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message
from framework.engines.celery._redis.windows import Windows
from framework.worker._outcomes import Outcome, insist
from framework.worker._policies import WorkerPolicies

_LOGGER = SafeLogger("asyncframe")

_RENEW_EVERY: Final = 1.0
_IDLE: Final = 5.0
"""Seconds without a task after which the watch sleeps until the next task."""

_KEPT: Final = 1_000
"""How many finished tasks are kept, for tasks here that wait for them."""

_PROGRESS_EVERY: Final = 0.05
_PAUSES: Final = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts to report an end; after that the worker's parent tries."""


@dataclass(slots=True)
class Delivery:
    """One delivery that runs here, as `LiveTask.delivery`.

    Attributes:
        attempt: Number of earlier attempts of the function's retry.
        limit: The task's full limit in seconds; less of it may be left.
        again: Set if it continues in a later delivery.
        told: Monotonic second of the last progress report.
        lost: Whether another process has the lease.
        ended: Whether Redis knows that it ran past its limit.
        thread: Identifier of the thread that runs it; 0 for an event loop.
    """

    attempt: int
    limit: float | None
    again: PublishAgain | None = None
    told: float = 0.0
    lost: bool = False
    ended: bool = False
    thread: int = 0


class _Endings(Endings):
    """Leaves tasks unfinished that continue in a later delivery."""

    def body_failed(self, task: LiveTask, error: BaseException) -> None:
        """End a task whose function raised, unless it is published again."""
        delivery: Delivery | None = task.delivery
        if delivery is not None and isinstance(error, PublishAgain):
            delivery.again = error
        elif delivery is None or not (isinstance(error, SystemExit) and _DYING.is_set()):
            super().body_failed(task, error)

    def is_unseen(self, task: LiveTask, waiters: dict[Waiter, None], in_place: bool) -> bool:
        """Return False for a delivered task, whose failure Celery logs; see `Outcome.tell`."""
        if task.delivery is None:
            return super().is_unseen(task, waiters, in_place)
        task.logged = True
        return False

    def time_out(self, task: LiveTask) -> None:
        """End a task TIMEOUT that has reached its limit, and name its full limit."""
        delivery: Delivery | None = task.delivery
        if delivery is not None:
            # The timer had only what earlier deliveries have left of it.
            task.limit = delivery.limit
        super().time_out(task)


class Outpost:
    """The framework of one process of a worker.

    Args:
        engine: The engine, which publishes tasks that are submitted here.
        holder: Name under which this process has leases.
    """

    def __init__(self, engine: CeleryEngine, holder: str) -> None:
        self._state = engine.state
        self._holder = holder
        self.clock = SystemClock()
        install_task_fields()
        self._framework = Framework(
            Parts(
                clock=self.clock,
                engine=engine,
                endings_type=_Endings,
                policies_type=WorkerPolicies,
                # Otherwise an awaited coroutine would wait for a process that waits for it.
                in_place=True,
            ),
            Settings(max_finished_tasks=_KEPT),
        )
        self._loop = asyncio.new_event_loop()
        self._core = self._framework.core
        # Redis keeps the arguments of what fails here, for whoever runs it again.
        self._core.ledger.calls.most = 0
        policies = self._core.policies
        assert isinstance(policies, WorkerPolicies)
        policies.windows = Windows(engine.state)
        self._framework.connect()
        # Tasks that are submitted here are kept apart from those that run here: a task may be
        # both. The first home is searched first, and reports are about submitted tasks.
        self._home = Home(self._core, None, self._loop)
        self._framework.open(self._home, schedules=False)
        self._delivered = Home(self._core, None, self._loop)
        self._core.ledger.add_home(self._delivered)
        self._core.ledger.subscribe(self._on_event, ("progress", "timed_out"))
        for one in engine.worker_telemetry:
            one.attach(self._framework.manager)
        self._running: dict[str, LiveTask] = {}
        # Monotonic second at which a task was last seen running.
        self._seen = 0.0
        self._leases = Courier(
            "asyncframe-lease", self._watch, pauses=(_RENEW_EVERY,), failed=_not_renewed
        )
        threading.Thread(target=self._loop.run_forever, name="asyncframe-loop", daemon=True).start()

    def run(self, message: Message, spec: TaskSpec, attempts: int) -> Outcome | PublishAgain:
        """Run a delivered task whose lease this process has.

        Args:
            message: What was delivered.
            spec: Its function.
            attempts: Its attempts so far, this one included.

        Returns:
            The `PublishAgain` that says when it continues, or how it ended.
        """
        try:
            args, kwargs = wire.decode_call(spec.fn, message.call)
            if spec.check is not None:
                spec.check(*args, **kwargs)
        except (TypeError, ValueError) as error:
            return self._tell_end(message, FAILED, error, reason="its arguments were refused")
        task = self._new_task(message, spec, args, kwargs, attempts)
        self._running[task.task_id] = task
        self._leases.wake()
        try:
            if spec.kind == "thread":
                task.delivery.thread = threading.get_ident()
                self._core.runner.runs["thread"](task)
            else:
                self._run_on_loop(task)
        finally:
            self._running.pop(task.task_id, None)
        if not task.status.is_final:
            again: PublishAgain | None = task.delivery.again
            kind = "interrupted" if again is None else again.kind
            delay, why = (0.0, None) if again is None else (again.delay, again.error)
            self._core.ledger.tell_leaving(task, kind, delay, why)
        if _DYING.is_set():
            # Ended by a signal: another process gets the task, unless it is final.
            raise SystemExit
        return self._outcome(task)

    def _new_task(
        self, message: Message, spec: TaskSpec, args: Any, kwargs: Any, attempts: int
    ) -> LiveTask:
        if (spec.name, spec.description) != (message.name, message.about):
            spec = spec.replace({"name": message.name, "description": message.about})
        context = Context()
        context.run(current_home.set, self._home)
        context.run(CARRIED.set, message.carried)
        created = self.clock.monotonic() - max(0.0, self.clock.time() - message.created)
        task = new_task(
            TaskId(message.task_id), spec, context, self._delivered, created, message.created
        )
        task.args, task.kwargs, task.limit = args, kwargs or None, message.left
        task.delivery = Delivery(message.attempt, message.limit)
        task.describe(message.label or None, message.meta or None, message.shown or None)
        self._core.owners.give(task, message.owner or None)
        self._core.ledger.add(task, bounded=False, emit_submitted=False)
        task.attempts = attempts - 1
        return task

    def _run_on_loop(self, task: LiveTask) -> None:
        done = threading.Event()

        def begin() -> None:
            if self._core.runner.runs["loop"](task) and task.driver is not None:
                assert task.driver.asyncio_task is not None
                task.driver.asyncio_task.add_done_callback(lambda _: done.set())
            else:
                done.set()

        self._loop.call_soon_threadsafe(begin)
        done.wait()

    def _outcome(self, task: LiveTask) -> Outcome | PublishAgain:
        delivery: Delivery = task.delivery
        if not task.status.is_final:
            # It is not tracked here any more: another process may get the next delivery.
            self._core.endings.limits.disarm(task)
            self._core.ledger.unfollow(task)
            assert delivery.again is not None
            return delivery.again
        task.read = True
        if delivery.lost:
            return Outcome(None)
        if delivery.ended:
            return Outcome(TIMEOUT, task.task_id, task.name, task.error)
        # Also past its limit: the function may have returned before the event of that arrived.
        return self._tell_outcome(task)

    def _tell_outcome(self, task: LiveTask) -> Outcome:
        error, result, status, reason = task.error, "", task.status, task.reason
        if error is not None:
            error = error.with_traceback(task.traceback)
        if task.status is COMPLETED:
            try:
                result = wire.encode_result(task.spec.fn, task.result)
            except (TypeError, ValueError) as raised:
                status, error, reason = FAILED, raised, "its result cannot be kept"
        return self._tell_end(
            task,
            status,
            error,
            result=result,
            reason=reason,
            share=task.progress,
            message=task.progress_message,
        )

    def _tell_end(
        self, task: LiveTask | Message, status: TaskStatus, error: BaseException | None, **more: Any
    ) -> Outcome:
        """Report an end; the outcome has the arguments of `State.end` if Redis takes none."""
        task_id, outcome = task.task_id, Outcome(status, task.task_id, task.name, error)
        text = "" if error is None else encode_error(error)
        call = {"task_id": task_id, "status": status, "holder": self._holder, "error": text, **more}
        for pause in (*_PAUSES, None):
            try:
                self._state.end(**call)
            except Exception as raised:  # whatever the client raises, Redis is unavailable
                _LOGGER.warning("the end of task %s is not reported yet: %r", task_id, raised)
            else:
                return outcome
            if pause is not None:
                self.clock.sleep(pause)
        _LOGGER.warning("the end of task %s is left to the worker's main process", task_id)
        # That may hear of it only after a limit has passed, and kills this process then.
        insist(self._state, call)
        return replace(outcome, unsaid=call)

    # -- what is told while a body runs

    def _on_event(self, event: TaskEvent) -> None:
        task = self._running.get(event.task_id or "")
        if task is None:
            return
        if event.kind == "timed_out":
            # Before its process is killed, which tells nobody where it was.
            frame = sys._current_frames().get(task.delivery.thread)
            where = place([one for one, _ in walk_stack(frame)], None) if frame else ""
            task.delivery.ended = self._tell_outcome(task).unsaid is None
            if where:
                _LOGGER.warning(
                    "task %s (%s) ran past its limit at %s", event.task_id, task.name, where
                )
            return
        delivery: Delivery = task.delivery
        now = self.clock.monotonic()
        # Progress in between is reported with the next one, or with the end.
        if now - delivery.told >= _PROGRESS_EVERY:
            delivery.told = now
            try:
                assert event.progress is not None
                self._state.progress(
                    task.task_id, self._holder, event.progress, event.message[:_LONGEST]
                )
            except Exception as error:  # a failed report must not end the task
                _LOGGER.warning("progress of task %s is not reported: %r", task.task_id, error)

    # -- leases

    def _watch(self) -> float | None:
        """Renew the leases of running tasks, and check whether they were cancelled."""
        self._state.awaken(self._holder, _RENEW_EVERY)
        for task in list(self._running.values()):
            self._seen = self.clock.monotonic()
            self._renew(task)
        return 0.0 if self.clock.monotonic() - self._seen <= _IDLE else None

    def _renew(self, task: LiveTask) -> None:
        wanted = self._state.renew(task.task_id, self._holder)
        if task.task_id not in self._running or task.status.is_final:
            return
        if wanted is None:
            task.delivery.lost = True
        if wanted is not False and self._core.ledger.request_cancel(task):
            self._core.endings.stop_body(task)
        if wanted:
            self._state.heard(task.task_id)


def _not_renewed(error: Exception) -> None:
    # Redis is unavailable; the leases may expire meanwhile.
    _LOGGER.warning("leases are not renewed: %s", safe_str(error))


_LONGEST: Final = 2_000


_DYING: Final = threading.Event()
"""Set once a signal has asked this process to end."""


def watch_signal() -> None:
    """Record SIGTERM from now on, and call the former handler; main thread only."""
    former = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: types.FrameType | None) -> None:
        _DYING.set()
        if callable(former):
            former(number, frame)
        else:
            raise SystemExit(-number)

    if former is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, note)
