"""Injects planned faults into tasks: at their submission, delivery and attempts, after events.

Relies on: the recorder, which is the interceptor of the test's framework.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias

from framework.protocols import Clock, TaskRecord
from framework.testing import (
    WorkerCrashError,
    around_body,
    deliver_again,
    function_name,
    is_in_place,
    refuse,
)
from pytest_asyncframe._faults.planned import Chaos, Exc, Fault, Firing, InjectedError
from pytest_asyncframe._faults.searched import Choices, Searched
from pytest_asyncframe._seen.entries import Injected, Submission
from pytest_asyncframe._seen.recorder import Recorder
from pytest_asyncframe.clock._patched.call_names import named

_CRASHED = "its worker crashed"


Submit: TypeAlias = Callable[[Callable[[], object]], Future[Any]]
"""Runs a function on a thread of the test's pool."""


class Injector:
    """Injects faults into the tasks of one test.

    Args:
        recorder: Tells what happens to tasks, and records the faults.
        clock: The clock of the test, for slow attempts.
        submit: Runs the second delivery of a sync task.

    Attributes:
        faults: The planned faults, in order.
        fired: The times that one took place, in order.
        searched: The faults that are searched; None if none are.
    """

    searched: Searched | None = None

    def __init__(self, recorder: Recorder, clock: Clock, submit: Submit) -> None:
        self.faults: list[Fault] = []
        self.fired: list[Firing] = []
        self._recorder = recorder
        self._clock = clock
        self._submit = submit
        self._begun: set[TaskRecord] = set()
        # A loop has only weak references to its tasks.
        self._again: set[asyncio.Task[None]] = set()

    @property
    def is_searching(self) -> bool:
        """Whether faults may take place that no test has planned."""
        return self.searched is not None

    def search(self, choices: Choices) -> None:
        """Let faults take place where *choices* decides so."""
        fault = Fault("searched", "interleave(faults=True)", "", None)

        def fired(one: Submission, text: str, error: BaseException | None) -> None:
            self._fire(fault, one, 1, f"{_name(one)}: {text}", error)

        self.searched = Searched(choices, fired, partial(self._second_delivery, fault))

    def _due(self, one: Submission, counts: str) -> Iterator[tuple[Fault, int, str]]:
        """Yield the faults that take place now, those of chance last, each with what happens."""
        for fault in sorted(self.faults, key=lambda it: isinstance(it, Chaos)):
            number, kind = fault.due(one, counts)
            if kind:
                yield fault, number, kind

    def _fire(
        self,
        fault: Fault,
        one: Submission,
        number: int,
        text: str,
        error: BaseException | None = None,
    ) -> None:
        firing = Firing(
            fault, _name(one), one.record.task_id, number, self._clock.monotonic(), text
        )
        fault.add(firing)
        self.fired.append(firing)
        self._recorder.injected(one.record, Injected(text, fault.place, error))

    # -- called by the recorder

    def before_accept(self, one: Submission) -> None:
        """Refuse a task that is about to be accepted, if that is planned.

        Raises:
            QueueFullError: Then.
        """
        # A task that runs where it is awaited is never refused by a full queue.
        if is_in_place(one.record):
            return
        for fault, number, _ in self._due(one, "submission"):
            self._fire(fault, one, number, f"submission of {_name(one)} meets a full queue")
            refuse(one.record)

    def after_event(self, one: Submission, kind: str) -> None:
        """Crash the worker of a task after an event, if that is planned.

        Raises:
            WorkerCrashError: Then.
        """
        for fault, number, _ in self._due(one, f"event {kind!r}"):
            self._crash(fault, one, number, kind)
        if self.searched is not None:
            self.searched.after_event(one, kind)

    def _crash(self, fault: Fault, one: Submission, number: int, event: str) -> None:
        self._fire(fault, one, number, f"the worker of {_name(one)} crashes after {event!r}")
        raise WorkerCrashError(_CRASHED)

    def around_attempt(
        self, one: Submission, call: Callable[[], Any]
    ) -> Any:  # Any: whatever the task returns
        """Run one attempt of a task with the faults that are planned for it."""
        if one.record not in self._begun:
            self._begun.add(one.record)
            self._begin(one)
        body = self._async_body if one.call.kind == "loop" else self._body
        attempt = partial(around_body, call, partial(body, one))
        searched = self.searched
        return attempt() if searched is None else searched.around_attempt(one, attempt)

    # -- a task

    def _begin(self, one: Submission) -> None:
        """Deliver a task again, and crash its worker, if that is planned."""
        due = list(self._due(one, "task"))
        for fault, number, kind in due:
            deliver = self._second_delivery(fault, one) if kind == "deliver_twice" else None
            if deliver is not None:
                self._fire(fault, one, number, f"{_name(one)} is delivered twice")
                deliver()
        if self.searched is not None:
            self.searched.begins(one)
        self.after_event(one, "started")
        for fault, number, kind in due:
            if kind == "crash_worker":
                self._crash(fault, one, number, "started")

    def _second_delivery(self, fault: Fault, one: Submission) -> Callable[[], None] | None:
        """Return what delivers a task once more; None if it has ended, for example at its limit."""
        record = one.record
        again = deliver_again(record)
        if again is None:
            return None
        self._recorder.delivered_again[record] = None

        def deliver() -> None:
            if one.call.kind == "loop":
                task = again()
                self._again.add(task)
                task.add_done_callback(partial(self._ended, fault, record))
            else:
                # A list of the pool's work shows this name.
                self._submit(named(again, f"{function_name(one.call.fn)} (second delivery)"))

        return deliver

    def _ended(self, fault: Fault, record: TaskRecord, task: asyncio.Task[None]) -> None:
        self._again.discard(task)
        if task.cancelled():
            fault.cut_short(record.task_id)

    # -- an attempt, where the function starts

    def _body(self, one: Submission, call: Callable[[], Any]) -> Any:
        seconds, error = self._planned(one)
        if seconds:
            self._clock.sleep(seconds)
        if error is not None:
            raise error
        return call()

    async def _async_body(self, one: Submission, call: Callable[[], Any]) -> Any:
        seconds, error = self._planned(one)
        if seconds:
            await self._clock.asleep(seconds)
        if error is not None:
            raise error
        return await call()

    def _planned(self, one: Submission) -> tuple[float, BaseException | None]:
        """Return by how many seconds an attempt is slowed down, and the error that it raises."""
        seconds, error, name = 0.0, None, _name(one)
        due = list(self._due(one, "attempt"))
        for fault, number, kind in due:
            if kind == "slow":
                seconds += fault.seconds
                text = f"attempt {number} of {name} takes {fault.seconds:g} s longer"
                self._fire(fault, one, number, text)
        for fault, number, kind in due:
            if kind == "fail" and error is None:
                error = _made(fault.exc, name, number)
                text = f"attempt {number} of {name} fails with {type(error).__name__}"
                self._fire(fault, one, number, text, error)
        return seconds, error


def _name(one: Submission) -> str:
    return one.record.name.rpartition(".")[2]


def _made(exc: Exc, name: str, number: int) -> BaseException:
    """Return the error to raise in an attempt, as it was before it was ever raised."""
    if exc is InjectedError:
        return InjectedError(name, number)
    try:
        error: object = exc if isinstance(exc, BaseException) else exc()
    except Exception as raised:  # a function may as well raise the error
        error = raised
    if not isinstance(error, BaseException):
        return TypeError(f"exc must return or raise an exception, but it returned {error!r}")
    return error.with_traceback(None)
