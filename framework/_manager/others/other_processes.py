"""Other processes: finds, awaits and cancels tasks of other processes, without blocking a loop.

One thread sends the queries for all callers: if a hundred coroutines wait for a hundred tasks
of other processes, that is one query at a time. The thread is started by the first question
and ends with the framework. Who waits for a change is not answered by queries again and again,
but by one query after the directories have told that the task has changed, if they can.

Guarantees: every question gets an answer or an error; a question whose caller has gone is
dropped; an id is unknown only if there is no other process, or after every other process has
answered an inquiry, or after a second if they cannot be asked.
Relies on: directories that block for a few seconds at most.
Lock order: `_lock` guards the questions; only a waiter's lock and that of the courier are taken
under it. Directories call `changed` without a lock.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from framework._manager.others.directories import Directories, Directory, Inquiries
from framework._manager.others.questions import Following, Found, Question, together
from framework._records import checks
from framework._records.records import TaskRecord
from framework._records.statuses import FINAL
from framework._threads.clock import SystemClock
from framework._threads.courier import GRAIN, Courier
from framework._threads.loggers import SafeLogger
from framework._threads.waiters import Mailboxes, Reply, Steps, block, suspend
from framework.exceptions import FrameworkNotStartedError, StoreUnavailableError
from framework.protocols import Clock

T = TypeVar("T")

_LOGGER = SafeLogger("asyncframe")

_PAUSES: Final = (0.03, 0.07, 0.1, 0.15, 0.25, 0.4)
"""Seconds until the next query for an unknown id. Its process writes the record within 0.1 s
after it has returned the id, or within half a second on a busy machine. The sum is twice that.
Then, if the other processes were asked, the last one is repeated until all have answered."""

_LONGEST: Final = 15.0
"""Seconds after which a question ends with an error if another process has not answered: longer
than it takes until one that does not run at all is noticed, and does not count any more."""

_EVERY: Final = 0.05
"""Seconds between two queries for a task that is awaited, if a directory tells no news."""

_CHECK: Final = 2.0
"""Seconds between two queries for all tasks that are awaited, if the directories tell news: some
may be lost, as with a connection, and this process itself may have taken a task over."""

_STEP: Final = 0.02
"""Questions are repeated at multiples of this many seconds, so that any number of them makes
50 queries a second at most."""


class OtherProcesses:
    """Queries the directories of one manager.

    Without any, no part is shared: what this process does not know is unknown, and what is to be
    called does not block, and is called at once.

    Attributes:
        exist: Whether other processes can have tasks.
        learned: Called on the thread with each final record, before anybody gets it as an answer.

    Args:
        directories: The directories, in the order in which to query them.
        clock: The framework's clock, for the timeouts of callers.
        boxes: The mailboxes of the event loops.
        real: The clock of the queries; None for real time, which others who answer have.
    """

    def __init__(
        self,
        directories: Sequence[Directory],
        clock: Clock,
        boxes: Mailboxes,
        real: Clock | None = None,
    ) -> None:
        self.exist = bool(directories)
        self.learned: Callable[[TaskRecord], object] = id
        self._directories = Directories(directories)
        self._clock = clock
        self._boxes = boxes
        self._real = real or SystemClock()
        abilities = self._directories.abilities
        self._inquiries = Inquiries(abilities, self._real)
        self._lock = threading.Lock()
        self._new: list[Question] = []
        # By the multiple of `_STEP` at which to repeat them.
        self._later: dict[int, list[Question]] = {}
        # Those that wait for a change, by their task, and when all of them are looked up next.
        self._watched: dict[str, dict[Question, None]] = {}
        self._check_at = 0.0
        self._told_by = [one.news for one in abilities if one.news is not None]
        self._has_news = len(self._told_by) == len(directories)
        # Used by the thread only, like what it does at the end.
        self._stop_news: list[Callable[[], object]] = []
        self._closed = False
        self._courier = Courier(
            "asyncframe-elsewhere", self._turn, ended=self._stop_listening, clock=self._real
        )

    # -- from a coroutine

    async def find(
        self,
        task_id: str,
        *,
        patient: bool = True,
        sees: Callable[[TaskRecord], bool] | None = None,
    ) -> TaskRecord | None:
        """Return a task's record; None if it is unknown.

        Args:
            task_id: The task.
            patient: Whether to repeat the query until the task is surely unknown.
            sees: Whether the caller may see a record; one that it may not see is unknown, and
                takes as long; None if it may see all.

        Raises:
            StoreUnavailableError: If that is not sure after `_LONGEST` seconds.
        """
        if not self._may_have(task_id):
            return None
        question = Question(task_id, last=not patient, sees=sees)
        return await suspend(self._ask(question, None))

    async def until_final(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """Suspend until a task is final and return its record; None if it is unknown.

        Raises:
            TimeoutError: If *timeout* seconds have passed; None for no timeout.
        """
        if not self._may_have(task_id):
            return None
        return await suspend(self._ask(Question(task_id, final=True), timeout))

    def follow(
        self, task_id: str, told: Callable[[TaskRecord | None], object]
    ) -> Callable[[], object]:
        """Call *told* with the record of a task now and after each change, until it is final.

        It is called on another thread. Several changes in a short time may be one. The last
        call has the final record; or None, if the task is unknown, or the framework stops.

        Returns:
            A function that ends it; harmless to call twice.
        """
        question = Following(task_id, told)
        self._put(question)

        def stop() -> None:
            question.dropped = True
            self._unwatch(question)

        return stop

    async def call(self, call: Callable[[], T]) -> T:
        """Call *call*, which may block, on the thread of the queries; return its result."""
        if not self.exist:
            return call()
        result: T = await suspend(self._ask(Question("", call=call), None))
        return result

    async def cancel(self, task_id: str, *, at_once: bool = False) -> bool:
        """Request a task's cancellation; False if it is unknown or final."""
        return await self.call(partial(self._directories.request_cancel, task_id, at_once))

    # -- from either

    def look_for(self, task_ids: Collection[str], told: Callable[[Found], object]) -> None:
        """Call *told* once, on some thread, with what finds tasks as `find` does."""
        for question in together(task_ids, told):
            self._put(question)

    def look_up(self, task_id: str) -> Steps[TaskRecord | None]:
        """Wait for a task's record as `find` does, in steps for `block` or `suspend`."""
        return self._ask(Question(task_id), None)

    # -- from a thread

    def block_until_final(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """Block until a task is final, like `until_final`."""
        if not self._may_have(task_id):
            return None
        record: TaskRecord | None = block(self._ask(Question(task_id, final=True), timeout))
        return record

    def post(self, call: Callable[[], Any]) -> bool:
        """Call *call*, which may block, on the thread of the queries, without waiting.

        Returns:
            Whether it is called; not if the framework has stopped.
        """
        if not self.exist:
            call()
            return True
        try:
            self._put(Question("", call=call))
        except FrameworkNotStartedError:
            return False
        return True

    def when_known(self, task_id: str, call: Callable[[], object]) -> None:
        """Call *call*, which must not block, on some thread once others find a task.

        It is called as well if the task is surely unknown.
        """
        if self.exist:
            self._put(Question(task_id, call))
        else:
            call()

    def post_cancel(self, task_id: str) -> None:
        """Request a task's cancellation without waiting, once its process has written it."""
        cancel = partial(self._directories.request_cancel, task_id)
        self.when_known(task_id, lambda: self.post(cancel))

    def close(self) -> None:
        """Answer all open questions with an error, and end the thread."""
        with self._lock:
            self._closed = True
            left = [*self._new, *(one for due in self._later.values() for one in due)]
            left += [one for some in self._watched.values() for one in some]
            self._new, self._later, self._watched = [], {}, {}
        self._courier.stop()
        for question in dict.fromkeys(left):
            question.finish(None, FrameworkNotStartedError("stopped"))

    def _may_have(self, task_id: str) -> bool:
        return self.exist and checks.may_be_task_id(task_id)

    def _ask(self, question: Question, timeout: float | None) -> Steps[Any]:
        """Ask a question, and wait for its answer, for at most *timeout* seconds."""
        reply = Reply[None](self._clock, self._boxes, timeout)
        question.told = partial(reply.give, None)
        self._put(question)
        try:
            yield reply.wait
        finally:
            question.dropped = True
            if question.final:
                self._unwatch(question)
        if not question.done:
            raise _too_long(question, timeout)
        return question.outcome()

    def _put(self, question: Question) -> None:
        with self._lock:
            if self._closed:
                raise FrameworkNotStartedError("stopped")
            if question.final:
                if not self._watched:
                    self._check_at = self._real.monotonic() + _CHECK
                self._watched.setdefault(question.task_id, {})[question] = None
            self._add(question)
            self._courier.wake()

    def _add(self, question: Question) -> None:
        """Add a question that is due now; with the lock held."""
        if not question.queued:
            question.queued = True
            self._new.append(question)

    def _unwatch(self, question: Question) -> None:
        with self._lock:
            some = self._watched.get(question.task_id)
            if some is None:
                return
            some.pop(question, None)
            if not some:
                del self._watched[question.task_id]
            if not self._watched:
                # So that the thread asks for no more news.
                self._courier.wake()

    def changed(self, task_ids: Collection[str] | None) -> None:
        """Look up tasks that have changed, if somebody waits for that; any thread.

        Args:
            task_ids: Their ids; None if any task may have changed.
        """
        with self._lock:
            changed = self._watched if task_ids is None else task_ids
            before = len(self._new)
            for task_id in changed:
                for question in self._watched.get(task_id, ()):
                    self._add(question)
            if len(self._new) > before:
                self._courier.wake()

    # -- on the thread

    def _turn(self) -> float | None:
        """Answer the questions that are due; return the seconds until the next ones are."""
        with self._lock:
            watched = bool(self._watched)
        # Before the first look at a task, so that no change after it is missed.
        if watched and not self._stop_news:
            self._listen()
        elif not watched:
            self._stop_listening()
        with self._lock:
            due = self._take_due()
        for question in due:
            if question.call is not None:
                self._call(question, question.call)
        self._search([question for question in due if question.call is None])
        with self._lock:
            return self._pause()

    def _listen(self) -> None:
        """Let the directories tell news while somebody waits for them; without the lock."""
        for one in self._told_by:
            try:
                self._stop_news.append(one.watch(self.changed))
            except Exception:  # then it is asked again and again, like those without news
                _LOGGER.exception("%r does not tell which tasks change", one)
                self._told_by, self._has_news = [], False
                return

    def _stop_listening(self) -> None:
        for stop in self._stop_news:
            stop()
        self._stop_news = []

    def _take_due(self) -> list[Question]:
        """Remove and return the questions that are due; those dropped are only removed."""
        due, self._new = self._new, []
        for question in due:
            question.queued = False
        # What the courier calls it for is due, to the last nanosecond.
        now = self._real.monotonic() + GRAIN
        if self._watched and self._has_news and now >= self._check_at:
            self._check_at = now + _CHECK
            due = list(dict.fromkeys([*due, *(one for q in self._watched.values() for one in q)]))
        if self._later:
            for step in sorted(step for step in self._later if step * _STEP <= now):
                again = self._later.pop(step)
                for question in again:
                    question.repeated = False
                due += again
        return [question for question in due if not question.dropped and not question.done]

    def _pause(self) -> float | None:
        """Return how many seconds to sleep; None for until the next question."""
        times = [self._check_at] if self._watched and self._has_news else []
        if self._later:
            times.append(min(self._later) * _STEP)
        return max(0.0, min(times) - self._real.monotonic()) if times else None

    def _call(self, question: Question, call: Callable[[], Any]) -> None:
        try:
            answer = call()
        except Exception as error:  # raised in the caller
            question.finish(None, error)
        else:
            question.finish(answer)

    def _search(self, questions: list[Question]) -> None:
        if not questions:
            return
        # Before the query, which then finds what the others have written.
        self._inquiries.go_on(max(one.inquiry or 0 for one in questions))
        again, sought = list[tuple[float, Question]](), list[Question]()
        for question in questions:
            if self._only_waits(question):
                again.append((_PAUSES[-1], question))
            else:
                sought.append(question)
        found, error = self._directories.fetch({one.task_id for one in sought if one.task_id})
        unknown = []
        for question in sought:
            record = found.get(question.task_id)
            if record is None or not (question.sees is None or question.sees(record)):
                unknown.append(question)
            elif record.status in FINAL:
                _pass_on(record, self.learned)
                question.finish(record)
            elif not question.final:
                question.finish(record)
            else:
                question.see(record)
                if not self._has_news:
                    again.append((_EVERY, question))
        self._ask_again(again + self._pauses(unknown, error))

    def _only_waits(self, question: Question) -> bool:
        """Return whether a query would be in vain, since another process has not answered."""
        return (
            question.tries >= len(_PAUSES)
            and not question.final
            and not self._inquiries.is_over(question.inquiry or 0)
            and self._real.monotonic() < question.until
        )

    def _in_vain(self, questions: Sequence[Question]) -> set[Question]:
        """Return those among the questions without an answer whose task surely does not exist."""
        over = [
            one
            for one in questions
            if one.inquiry is not None
            and self._inquiries.is_over(one.inquiry)
            and (self._inquiries.certain or one.tries >= len(_PAUSES))
        ]
        expected = self._inquiries.expected({one.task_id for one in over}) if over else ()
        return {one for one in over if one.task_id not in expected}

    def _pauses(
        self, unknown: list[Question], error: Exception | None
    ) -> list[tuple[float, Question]]:
        """Answer questions for unknown tasks, or return them with the time until the next try."""
        again: list[tuple[float, Question]] = []
        alone: bool | None = None
        in_vain = set() if error is not None else self._in_vain(unknown)
        now = self._real.monotonic()
        for question in unknown:
            if error is not None and isinstance(question, Following):
                again.append((_PAUSES[-1], question))
            elif error is not None:
                # The directory that does not answer may know it.
                question.finish(None, error)
            elif question.last:
                question.finish(None)
            elif question in in_vain:
                question.finish(None, self._directories.doubt())
            elif now >= question.until:
                question.finish(None, self._directories.doubt() or _no_answer(question))
            else:
                if alone is None:
                    alone = self._directories.is_alone()
                # One more try: the last other process may have written it and then ended.
                question.last = alone
                pause = _PAUSES[min(question.tries, len(_PAUSES) - 1)]
                again.append((0.0 if alone else pause, question))
                if question.inquiry is None:
                    question.inquiry, question.until = self._inquiries.next(), now + _LONGEST
                question.tries += 1
        return again

    def _ask_again(self, questions: list[tuple[float, Question]]) -> None:
        """Schedule questions again, each after its number of seconds."""
        with self._lock:
            if not self._closed:
                now = self._real.monotonic()
                for pause, question in questions:
                    if question.repeated:
                        continue
                    question.repeated = True
                    step = math.ceil((now + pause) / _STEP) if pause else 0
                    self._later.setdefault(step, []).append(question)
                return
        for _, question in questions:
            question.finish(None, FrameworkNotStartedError("stopped"))


def _pass_on(record: TaskRecord, learned: Callable[[TaskRecord], object]) -> None:
    try:
        learned(record)
    except Exception:  # the questions must be answered all the same
        _LOGGER.exception("the end of task %s could not be noted", record.task_id)


def _no_answer(question: Question) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"another process has not answered for {_LONGEST:g} s whether it has task "
        f"{question.task_id!r}, so the task may exist; try again later"
    )


def _too_long(question: Question, timeout: float | None) -> TimeoutError:
    task_id = question.task_id
    if question.seen:
        return TimeoutError(
            f"task {task_id} of another process is not final after {timeout:g} s of waiting; "
            "it goes on"
        )
    return TimeoutError(
        f"task {task_id!r} is still unknown after {timeout:g} s of waiting: it may not exist, or "
        "its process is too busy to write its record; wait for a second or longer"
    )
