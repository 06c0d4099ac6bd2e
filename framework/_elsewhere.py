"""Tasks of other processes: found, waited for and cancelled, without blocking a loop.

One thread asks on behalf of all who ask: a hundred coroutines that wait for a hundred
tasks of others cost one query each time. It is started by the first question and ends
with the framework.

Guarantees: every question is answered or ends with an error; a question whose asker has
gone is dropped.
Relies on: directories whose methods may block, each for a few seconds at most.
Lock order: its condition is innermost but for a waiter's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol

from framework._clock import SystemClock
from framework._delivery import LoopWaiter, Mailboxes, ThreadWaiter, Waiter
from framework._records import TaskRecord
from framework.exceptions import FrameworkNotStartedError
from framework.protocols import Clock

_TRIES: Final = (0.03, 0.07)
"""Seconds after which an id that nobody knows is asked for again: its process writes it at
the latest 0.1 s after it has answered with it."""

_EVERY: Final = 0.05
"""Seconds from one look at an awaited task to the next."""


class Directory(Protocol):
    """A place that knows tasks of other processes; both methods may block."""

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return what is known of these ids now."""
        ...

    def request_cancel(self, task_id: str) -> bool:
        """Ask for a task's cancellation; False if it is unknown or final."""
        ...


class _Question:
    """What one coroutine or thread wants to know.

    Attributes:
        task_id: Of this task; None if *call* is to be made instead.
        final: Whether to wait until it is final.
        call: What to call on the thread, in place of a search.
        waiter: Is woken once `answer` or `error` is there.
        due: When to ask next, in monotonic seconds.
        dropped: Whether nobody wants the answer any more.
    """

    __slots__ = ("answer", "call", "done", "dropped", "due", "error", "final", "task_id",
                 "tries", "waiter")  # fmt: skip

    def __init__(
        self,
        waiter: Waiter,
        task_id: str | None,
        *,
        final: bool = False,
        call: Callable[[], Any] | None = None,
    ) -> None:
        self.waiter = waiter
        self.task_id = task_id
        self.final = final
        self.call = call
        self.tries = 0
        self.due = 0.0
        self.dropped = self.done = False
        self.answer: Any = None
        self.error: BaseException | None = None

    def finish(self, answer: Any, error: BaseException | None = None) -> None:
        """Give the answer and wake who waits for it."""
        self.answer, self.error, self.done = answer, error, True
        self.waiter.wake()

    def outcome(self) -> Any:
        """Return the answer, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.answer


class Elsewhere:
    """Asks the directories of one manager.

    Args:
        directories: Whom to ask, the first first.
        clock: The framework's, for how long a caller waits.
        boxes: The loops' mailboxes.
    """

    def __init__(self, directories: Sequence[Directory], clock: Clock, boxes: Mailboxes) -> None:
        self._directories = directories
        self._clock = clock
        self._boxes = boxes
        # Other processes live in real time, whatever time it is here.
        self._real = SystemClock()
        self._condition = threading.Condition(threading.Lock())
        self._questions: list[_Question] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    # -- from a coroutine

    async def find(self, task_id: str, *, patient: bool = True) -> TaskRecord | None:
        """Return a task's record, or None if nobody knows it.

        Args:
            task_id: The task.
            patient: Whether to ask again, for 0.1 s, while nobody knows it.
        """
        record: TaskRecord | None = await self._ask(task_id, tries=0 if patient else len(_TRIES))
        return record

    async def until_final(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """Suspend until a task is final and return its record; None if nobody knows it.

        Raises:
            TimeoutError: If *timeout* seconds, None for any number, have passed.
        """
        record: TaskRecord | None = await self._ask(task_id, final=True, timeout=timeout)
        return record

    async def call(self, call: Callable[[], Any]) -> Any:
        """Return what *call*, which may block, returns on the thread that asks."""
        return await self._ask(None, call=call)

    async def cancel(self, task_id: str) -> bool:
        """Ask for a task's cancellation; False if it is unknown or final."""
        return bool(await self.call(lambda: self._request_cancel(task_id)))

    # -- from a thread

    def block_until_final(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """Block until a task is final; as `until_final`."""
        waiter = ThreadWaiter(self._clock)
        question = _Question(waiter, task_id, final=True)
        until = None if timeout is None else self._clock.monotonic() + timeout
        self._put(question)
        try:
            if not waiter.wait(until):
                raise _too_long(task_id, timeout)
        finally:
            question.dropped = True
        record: TaskRecord | None = question.outcome()
        return record

    def post(self, call: Callable[[], Any]) -> None:
        """Have *call*, which may block, called on the thread that asks; nobody waits."""
        self._put(_Question(_NOBODY, None, call=call))

    def close(self) -> None:
        """Answer what is still asked with an error and end the thread."""
        with self._condition:
            self._closed = True
            left, self._questions = self._questions, []
            self._condition.notify()
        for question in left:
            question.finish(None, FrameworkNotStartedError("stopped"))

    async def _ask(
        self,
        task_id: str | None,
        *,
        final: bool = False,
        tries: int = 0,
        timeout: float | None = None,
        call: Callable[[], Any] | None = None,
    ) -> Any:
        waiter = LoopWaiter(self._boxes)
        question = _Question(waiter, task_id, final=final, call=call)
        question.tries = tries
        timer = None
        self._put(question)
        try:
            if timeout is not None:
                timer = self._clock.call_at(self._clock.monotonic() + timeout, waiter.wake)
            await waiter.future
        finally:
            question.dropped = True
            if timer is not None:
                timer.cancel()
        if not question.done:
            assert task_id is not None
            raise _too_long(task_id, timeout)
        return question.outcome()

    def _put(self, question: _Question) -> None:
        with self._condition:
            if self._closed:
                raise FrameworkNotStartedError("stopped")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="asyncframe-elsewhere", daemon=True
                )
                self._thread.start()
            self._questions.append(question)
            self._condition.notify()

    # -- on the thread

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._closed and not (due := self._take_due()):
                    self._condition.wait(self._pause())
                if self._closed:
                    return
            for question in due:
                if question.call is not None:
                    self._call(question)
            self._search([question for question in due if question.call is None])

    def _take_due(self) -> list[_Question]:
        """Take the questions whose time has come off the list; those dropped, for good."""
        now = self._real.monotonic()
        wanted = [question for question in self._questions if not question.dropped]
        due = [question for question in wanted if question.due <= now]
        self._questions = [question for question in wanted if question.due > now]
        return due

    def _pause(self) -> float | None:
        """Return how many seconds to sleep; None for until somebody asks."""
        if not self._questions:
            return None
        return max(0.0, min(one.due for one in self._questions) - self._real.monotonic())

    def _call(self, question: _Question) -> None:
        assert question.call is not None
        try:
            answer = question.call()
        except Exception as error:  # whoever asked is told
            question.finish(None, error)
        else:
            question.finish(answer)

    def _search(self, questions: list[_Question]) -> None:
        if not questions:
            return
        found, error = self._fetch({one.task_id for one in questions if one.task_id})
        again = []
        for question in questions:
            record = found.get(question.task_id or "")
            if record is not None and (record.status.is_final or not question.final):
                question.finish(record)
            elif record is not None:
                question.due = self._real.monotonic() + _EVERY
                again.append(question)
            elif error is not None:
                # Perhaps it is known just where nobody answers.
                question.finish(None, error)
            elif question.tries < len(_TRIES):
                question.due = self._real.monotonic() + _TRIES[question.tries]
                question.tries += 1
                again.append(question)
            else:
                question.finish(None)
        with self._condition:
            if not self._closed:
                self._questions += again
                return
        for question in again:
            question.finish(None, FrameworkNotStartedError("stopped"))

    def _fetch(self, task_ids: set[str]) -> tuple[dict[str, TaskRecord], Exception | None]:
        """Return what the directories know, and why one of them does not answer, if so."""
        found: dict[str, TaskRecord] = {}
        failed: Exception | None = None
        for directory in self._directories:
            missing = task_ids - found.keys()
            if not missing:
                break
            try:
                records = directory.fetch(missing)
            except Exception as error:  # whoever asked is told, if nobody else knows
                failed = error
            else:
                found |= {str(record.task_id): record for record in records}
        return found, failed

    def _request_cancel(self, task_id: str) -> bool:
        return any(directory.request_cancel(task_id) for directory in self._directories)


class _Nobody:
    """A waiter that nobody is."""

    def wake(self) -> None:
        """Do nothing."""

    def nudge(self) -> None:
        """Do nothing."""


_NOBODY: Final = _Nobody()


def _too_long(task_id: str, timeout: float | None) -> TimeoutError:
    return TimeoutError(
        f"task {task_id}, which another process has, is not final after {timeout:g} s of "
        "waiting; it goes on"
    )
