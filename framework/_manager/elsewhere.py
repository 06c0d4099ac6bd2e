"""Tasks of other processes: found, waited for and cancelled, without blocking a loop.

One thread asks on behalf of all who ask: a hundred coroutines that wait for a hundred
tasks of others cost one query each time. It is started by the first question and ends
with the framework.

Guarantees: every question is answered or ends with an error; a question whose asker has
gone is dropped; an id is called unknown only when every other process has had a second to
write it and could, or when there is no other.
Relies on: directories whose methods may block, each for a few seconds at most.
Lock order: its condition is innermost but for a waiter's own.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol

from framework._tasks import checks
from framework._tasks.live import Waiter
from framework._tasks.records import FINAL, TaskRecord
from framework._threads.clock import SystemClock
from framework._threads.waiters import LoopWaiter, Mailboxes, ThreadWaiter
from framework.exceptions import FrameworkNotStartedError
from framework.protocols import Clock, SharedDirectory

_PAUSES: Final = (0.03, 0.07, 0.1, 0.15, 0.25, 0.4)
"""Seconds after which an id that nobody knows is asked for again. Its process writes it
within 0.1 s of its answer, on a busy machine within half a second; together they are twice
that, and only ids that do not exist take so long."""

_EVERY: Final = 0.05
"""Seconds from one look at an awaited task to the next."""

_STEP: Final = 0.02
"""Repeated questions are asked at multiples of so many seconds, so that those of many who
ask for unknown ids come together into 50 queries a second."""


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
        tries: How often it was asked in vain.
        last: Whether it is not asked again if nobody knows the task.
        seen: Whether somebody knows the task.
        dropped: Whether nobody wants the answer any more.
    """

    __slots__ = ("answer", "call", "done", "dropped", "error", "final", "last", "seen",
                 "task_id", "tries", "waiter")  # fmt: skip

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
        self.dropped = self.done = self.seen = self.last = False
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
        real: Real time: other processes live in it, whatever time it is here.
    """

    def __init__(
        self,
        directories: Sequence[Directory],
        clock: Clock,
        boxes: Mailboxes,
        real: SystemClock | None = None,
    ) -> None:
        self._directories = directories
        self._clock = clock
        self._boxes = boxes
        self._real = real or SystemClock()
        self._condition = threading.Condition(threading.Lock())
        self._new: list[_Question] = []
        # By the multiple of `_STEP` at which they are asked again.
        self._later: dict[int, list[_Question]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    # -- from a coroutine

    async def find(self, task_id: str, *, patient: bool = True) -> TaskRecord | None:
        """Return a task's record, or None if nobody knows it.

        Args:
            task_id: The task.
            patient: Whether to ask again, for a second, while nobody knows it.
        """
        if not checks.may_be_task_id(task_id):
            return None
        record: TaskRecord | None = await self._ask(task_id, last=not patient)
        return record

    async def until_final(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """Suspend until a task is final and return its record; None if nobody knows it.

        Raises:
            TimeoutError: If *timeout* seconds, None for any number, have passed.
        """
        if not checks.may_be_task_id(task_id):
            return None
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
        if not checks.may_be_task_id(task_id):
            return None
        waiter = ThreadWaiter(self._clock)
        question = _Question(waiter, task_id, final=True)
        until = None if timeout is None else self._clock.monotonic() + timeout
        self._put(question)
        try:
            if not waiter.wait(until):
                raise _too_long(question, timeout)
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
            left = [*self._new, *(one for due in self._later.values() for one in due)]
            self._new, self._later = [], {}
            self._condition.notify()
        for question in left:
            question.finish(None, FrameworkNotStartedError("stopped"))

    async def _ask(
        self,
        task_id: str | None,
        *,
        final: bool = False,
        last: bool = False,
        timeout: float | None = None,
        call: Callable[[], Any] | None = None,
    ) -> Any:
        waiter = LoopWaiter(self._boxes)
        question = _Question(waiter, task_id, final=final, call=call)
        question.last = last
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
            raise _too_long(question, timeout)
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
            self._new.append(question)
            self._condition.notify()

    # -- on the thread

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._closed and not (due := self._take_due()):
                    self._real.wait(self._condition, self._pause())
                if self._closed:
                    return
            for question in due:
                if question.call is not None:
                    self._call(question)
            self._search([question for question in due if question.call is None])

    def _take_due(self) -> list[_Question]:
        """Take the questions whose time has come; those dropped, for good."""
        due, self._new = self._new, []
        if self._later:
            now = self._real.monotonic() / _STEP
            for step in sorted(step for step in self._later if step <= now):
                due += self._later.pop(step)
        return [question for question in due if not question.dropped]

    def _pause(self) -> float | None:
        """Return how many seconds to sleep; None for until somebody asks."""
        if not self._later:
            return None
        return max(0.0, min(self._later) * _STEP - self._real.monotonic())

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
        again: list[tuple[float, _Question]] = []
        unknown = []
        for question in questions:
            record = found.get(question.task_id or "")
            if record is None:
                unknown.append(question)
            elif record.status in FINAL or not question.final:
                question.finish(record)
            else:
                question.seen = True
                again.append((_EVERY, question))
        self._ask_again(again + self._pauses(unknown, error))

    def _pauses(
        self, unknown: list[_Question], error: Exception | None
    ) -> list[tuple[float, _Question]]:
        """Answer questions of which nobody knows the task, or return when to ask again."""
        again = []
        alone: bool | None = None
        for question in unknown:
            if error is not None:
                # Perhaps it is known just where nobody answers.
                question.finish(None, error)
            elif question.last:
                question.finish(None)
            elif question.tries >= len(_PAUSES):
                question.finish(None, self._doubt())
            else:
                if alone is None:
                    alone = self._is_alone()
                # Alone, one more look: the last of the others may have written it and gone.
                question.last = alone
                again.append((0.0 if alone else _PAUSES[question.tries], question))
                question.tries += 1
        return again

    def _ask_again(self, questions: list[tuple[float, _Question]]) -> None:
        """Put questions back, each with the seconds until it is asked again."""
        with self._condition:
            if not self._closed:
                now = self._real.monotonic()
                for pause, question in questions:
                    step = math.ceil((now + pause) / _STEP) if pause else 0
                    self._later.setdefault(step, []).append(question)
                return
        for _, question in questions:
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

    def _is_alone(self) -> bool:
        """Return whether there is surely no other process that could tell of a task."""
        try:
            return all(
                isinstance(one, SharedDirectory) and one.is_alone() for one in self._directories
            )
        except Exception:  # nobody's answer is spoilt by it: then there may be others
            return False

    def _doubt(self) -> Exception | None:
        """Return why a task that nobody knows may be there all the same; None if it is not."""
        doubts = (one.doubt() for one in self._directories if isinstance(one, SharedDirectory))
        return next(filter(None, doubts), None)

    def _request_cancel(self, task_id: str) -> bool:
        return any(directory.request_cancel(task_id) for directory in self._directories)


class _Nobody:
    """A waiter that ignores being woken."""

    def wake(self) -> None:
        """Do nothing."""

    def nudge(self) -> None:
        """Do nothing."""


_NOBODY: Final = _Nobody()


def _too_long(question: _Question, timeout: float | None) -> TimeoutError:
    task_id = question.task_id
    if question.seen:
        return TimeoutError(
            f"task {task_id}, which another process has, is not final after {timeout:g} s of "
            "waiting; it goes on"
        )
    return TimeoutError(
        f"no process has told of task {task_id!r} after {timeout:g} s of waiting: it may be "
        "unknown, or the others are too busy to write; wait for a second or longer"
    )
