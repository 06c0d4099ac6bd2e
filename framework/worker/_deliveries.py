"""A delivery in a process of the pool: it is checked, and run or published again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, NoReturn

from celery.exceptions import Reject

from framework._records.statuses import (
    CANCELLED,
    FAILED,
    PENDING,
    TIMEOUT,
    TRAITS,
    TaskStatus,
)
from framework._running.outcomes import PublishAgain
from framework._tasks.errors.kept import encode_error
from framework._threads.clock import SystemClock
from framework._threads.loggers import SafeLogger
from framework._threads.watch.processes import holder_here, is_dead
from framework.engines.celery import CeleryEngine, _settings
from framework.engines.celery._messages import Message, MessageError
from framework.engines.celery._redis.state import State, Verdict
from framework.engines.celery._redis.windows import Windows
from framework.worker._outcomes import Outcome
from framework.worker._outpost import Outpost, watch_signal

_LOGGER = SafeLogger("asyncframe")

_AWAY: Final = 1.0
"""Seconds to wait before a message is returned because Redis is unavailable."""


class Process:
    """What a process of the pool keeps between tasks."""

    def __init__(self) -> None:
        self.outpost: Outpost | None = None
        self.lock = threading.Lock()
        self.sending = threading.Lock()
        self.sender: Any = None
        self.holder = ""
        # The worker that it belongs to, if that shows a sign; set before the pool is started.
        self.worker = ""
        self.pid = self.watched = 0
        self._claimed: set[str] = set()

    def enter(self, engine: CeleryEngine) -> Outpost:
        """Return this process's outpost, created on first use."""
        with self.lock:
            if self.outpost is None or self.pid != os.getpid():
                self.pid, self.holder = os.getpid(), holder_here()
                engine.enter_worker()
                self.sender = engine.sender()
                self.outpost = Outpost(engine, self.holder)
            return self.outpost

    @contextmanager
    def claim(self, task_id: str) -> Iterator[bool]:
        """Reserve a task for the calling thread; False if another thread has it."""
        with self.lock:
            free = task_id not in self._claimed
            self._claimed.add(task_id)
        try:
            yield free
        finally:
            if free:
                with self.lock:
                    self._claimed.discard(task_id)

    def watch_signal(self) -> None:
        """Watch for SIGTERM from the first delivery on: before, the pool sets its own handler."""
        if self.watched != self.pid and threading.current_thread() is threading.main_thread():
            self.watched = self.pid
            watch_signal()


PROCESS = Process()


def deliver(engine: CeleryEngine, task: Any, given: object) -> None:  # Any: Celery has no types
    """Run one delivery to its end, or have it continue elsewhere.

    Args:
        engine: The engine.
        task: The Celery task that the message is for.
        given: The message.

    Raises:
        Exception: What tells Celery how it went; see `Outcome.tell`.
        Reject: If Redis does not answer, or the message is another app's; the broker delivers
            it again.
    """
    outpost = PROCESS.enter(engine)
    PROCESS.watch_signal()
    try:
        message = Message.from_json(given)
    except MessageError as error:
        outcome = _refuse(engine, given, error)
    else:
        outcome = _deliver_safely(engine, outpost, message)
    # Outside of all handlers: errors of a user's function may be of the same classes.
    outcome.tell(task)


def _deliver_safely(engine: CeleryEngine, outpost: Outpost, message: Message) -> Outcome:
    """Run one delivery, or return its message to the broker.

    Raises:
        Reject: To return it.
    """
    if message.namespace not in ("", engine.namespace):
        _hand_on(engine, outpost, message)
    try:
        # A lease belongs to the process, and a pool of threads may take a message twice.
        with PROCESS.claim(message.task_id) as free:
            return _deliver(engine, outpost, message, free)
    except engine.errors as error:
        _LOGGER.warning("task %s is returned to the queue: %r", message.task_id, error)
        outpost.clock.sleep(_AWAY)
        raise Reject(error, requeue=True) from error


def _deliver(engine: CeleryEngine, outpost: Outpost, message: Message, free: bool) -> Outcome:
    state, early = engine.state, message.due - outpost.clock.time()
    if early > _EARLY:
        _send(engine, message)
        return _DROPPED
    if message.left is not None and message.left <= 0:
        told, reason = message.timeout_error(), "it ran past its time limit"
        return _end(engine, message, told, reason, TIMEOUT, seq=message.seq)
    holder, worker = PROCESS.holder, PROCESS.worker
    verdict = Verdict("busy", holder=holder)
    if free:
        verdict = state.start(message, holder, worker=worker)
    if verdict.kind == "busy" and is_dead(verdict.holder):
        verdict = state.start(message, holder, dead=verdict.holder, worker=worker)
    if verdict.kind == "busy":
        # Not dropped: if the other process dies, this is the only message.
        pause = min(max(verdict.left, 0.0) + _AWAY, _settings.HOLD)
        _send(engine, replace(message, due=outpost.clock.time() + pause))
    elif verdict.kind == "again":
        state.repeated([message.task_id])
        _send_next(engine, Message.from_json(json.loads(verdict.message)))
    elif verdict.kind == "over":
        return _over(state, message, verdict.message)
    elif verdict.kind == "run":
        return _run(engine, outpost, message, verdict.attempts)
    return _DROPPED


_EARLY: Final = 0.001
_DROPPED: Final = Outcome(None)


def _end(
    engine: CeleryEngine,
    message: Message,
    error: BaseException | None,
    reason: str,
    status: TaskStatus = FAILED,
    **whose: Any,
) -> Outcome:
    """End a task in Redis that this process does not run to its end.

    Args:
        engine: The engine.
        message: Its message.
        error: Why it has failed; None if it has not.
        reason: For people.
        status: The final status.
        whose: See `State.end`; the one that this process has the lease of if left out.
    """
    engine.state.end(
        message.task_id,
        status,
        **(whose or {"holder": PROCESS.holder}),
        error="" if error is None else encode_error(error),
        reason=reason,
    )
    return Outcome(status, message.task_id, message.name, error)


def _over(state: State, message: Message, status: str) -> Outcome:
    """Drop a delivery of a task that is final."""
    if message.turn:
        # It was cancelled while it waited, and would delay those behind it.
        Windows(state).leave(message.turn, message.task_id)
    made = TRAITS[TaskStatus(status)].error if status else None
    if made is None:  # the delivery that has ended it has told Celery
        return _DROPPED
    task_id, name = message.task_id, message.name
    return Outcome(TaskStatus(status), task_id, name, made(task_id, name))


def _run(engine: CeleryEngine, outpost: Outpost, message: Message, attempts: int) -> Outcome:
    spec = engine.functions.spec(message.fn)
    if spec is None:
        told = LookupError(
            f"this worker knows no task function {message.fn!r}: import its module in the one "
            "that the worker is started with"
        )
        return _end(engine, message, told, "it could not be started")
    began = outpost.clock.monotonic()
    try:
        outcome = outpost.run(message, spec, attempts)
    except Exception as error:  # a fault of our own: the task must not stay RUNNING forever
        return _end(engine, message, error, "it could not be run")
    # Before the message is acknowledged: this process may be killed right after.
    engine.flush()
    if isinstance(outcome, Outcome):
        return outcome
    left = message.left
    if left is not None:
        left = max(left - (outpost.clock.monotonic() - began), 0.0)
    following = _following(message, outcome, left, outpost.clock.time())
    why = "" if outcome.error is None else encode_error(outcome.error)
    taken = engine.state.again(
        following, PROCESS.holder, outcome.kind, outcome.delay, why, outcome.reason
    )
    if taken:
        _send_next(engine, following)
    elif taken is False:
        reason = "it was cancelled between two attempts"
        return _end(engine, message, None, reason, CANCELLED)
    return Outcome(PENDING, message.task_id, message.name, again=outcome)


def _following(message: Message, outcome: PublishAgain, left: float | None, now: float) -> Message:
    delay, waited = outcome.delay, outcome.kind == "throttled"
    if left is not None and not waited:
        # A delay beyond the limit ends with it, as TIMEOUT.
        delay, left = min(delay, left), left - delay
    return replace(
        message,
        seq=message.seq + 1,
        attempt=message.attempt + (0 if waited else 1),
        waited=waited,
        turn=outcome.turn,
        due=now + delay,
        left=left,
    )


def _send_next(engine: CeleryEngine, message: Message) -> None:
    _send(engine, message)
    engine.state.sent(message)


def _send(engine: CeleryEngine, message: Message) -> None:
    """Publish a message, held back until it is due in steps that the broker allows."""
    wait = max(message.due - SystemClock().time(), 0.0)
    if wait > _settings.HOLD:
        # The last hold is short enough for a full run after it.
        longest = _settings.visibility(engine.app) - _settings.MARGIN / 2
        wait = min(wait - _settings.HOLD / 2, longest)
    with PROCESS.sending:
        PROCESS.sender.send(message, wait)


def _hand_on(engine: CeleryEngine, outpost: Outpost, message: Message) -> NoReturn:
    """Return a message of another app to the queue that both apps share.

    Raises:
        Reject: Always.
    """
    _LOGGER.error(
        "task %s has the namespace %r, but this worker has %r: both use the same queue; "
        "give each its own queue",
        message.task_id,
        message.namespace,
        engine.namespace,
    )
    # Or it would return immediately, again and again, until another worker takes it.
    outpost.clock.sleep(_AWAY)
    raise Reject("a task of another namespace", requeue=True)


def _refuse(engine: CeleryEngine, given: object, error: MessageError) -> Outcome:
    """End the task of a message that this version does not understand."""
    task_id = given.get("task_id") if isinstance(given, dict) else None
    seq = given.get("seq") if isinstance(given, dict) else None
    if isinstance(task_id, str) and isinstance(seq, int):
        engine.state.end(
            task_id,
            FAILED,
            seq=seq,
            error=encode_error(error),
            reason="its message was refused",
        )
    return Outcome(FAILED, str(task_id), error=error)
