"""Questions about tasks of other processes, and what happens to their answers.

Guarantees: each question is answered once, except that a follower is told each state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

from framework._records import checks
from framework._records.records import TaskRecord, visible_state


class Then:
    """A waiter that calls *do* when it is woken."""

    reads = False

    def __init__(self, do: Callable[[], object]) -> None:
        self._do = do

    def wake(self) -> None:
        """Do it."""
        self._do()

    def nudge(self) -> None:
        """Do nothing."""


Found: TypeAlias = Callable[[], dict[str, TaskRecord | None]]
"""Returns some tasks by their ids, None for those that are unknown, or raises an error."""


def _nothing() -> None:
    pass


@dataclass(slots=True, eq=False)
class Question:
    """A question of one coroutine or thread.

    Attributes:
        task_id: The task to find; "" if *call* is set.
        told: Called when `answer` or `error` is set.
        final: Whether to wait until the task is final.
        call: Called on the thread instead of a query.
        sees: Whether the caller may see a record; None if it may see all.
        tries: How many queries did not find the task.
        inquiry: The number of the inquiry that must be over before the task is unknown; None
            before the first query.
        until: Monotonic second of real time until which it waits for that.
        last: Whether not to repeat the query if it does not find the task.
        seen: Whether a query has found the task.
        queued: Whether it is among the new questions; with the lock.
        repeated: Whether it is among those to repeat later; with the lock.
        done: Whether it is answered.
        dropped: Whether the caller does not need the answer any more; set without the lock,
            since the worst that follows is one more query.
    """

    task_id: str
    told: Callable[[], object] = _nothing
    final: bool = False
    call: Callable[[], Any] | None = None
    sees: Callable[[TaskRecord], bool] | None = None
    last: bool = False
    tries: int = 0
    inquiry: int | None = None
    until: float = math.inf
    seen: bool = False
    queued: bool = False
    repeated: bool = False
    dropped: bool = False
    done: bool = False
    answer: Any = None
    error: BaseException | None = None

    def see(self, record: TaskRecord) -> None:
        """Note that the task was found, and is not final."""
        self.seen = True

    def finish(self, answer: Any, error: BaseException | None = None) -> None:
        """Set the answer or the error, and tell of it."""
        self.answer, self.error, self.done = answer, error, True
        self.told()

    def outcome(self) -> Any:
        """Return the answer, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.answer


def together(task_ids: Collection[str], told: Callable[[Found], object]) -> list[Question]:
    """Return the questions for some tasks; *told* is called once all of them are answered."""
    questions = [Question(one) for one in task_ids if checks.may_be_task_id(one)]
    left = list(questions)

    def found() -> dict[str, TaskRecord | None]:
        known = {question.task_id: question.outcome() for question in questions}
        return {one: known.get(one) for one in task_ids}

    def answered() -> None:
        left.pop()
        if not left:
            told(found)

    for question in questions:
        question.told = answered
    if not questions:
        told(found)
    return questions


class Following(Question):
    """A question that is answered again and again, until the task is final.

    Attributes:
        follower: Called on the thread with each answer: a record, or None if the task is unknown.
    """

    __slots__ = ("_latest", "follower")

    def __init__(self, task_id: str, follower: Callable[[TaskRecord | None], object]) -> None:
        super().__init__(task_id, final=True)
        self.follower = follower
        self._latest: object = None

    def see(self, record: TaskRecord) -> None:
        """Tell of the state, if it is not the one that was told before."""
        super().see(record)
        state = visible_state(record)
        if state != self._latest and not self.dropped:
            self._latest = state
            self.follower(record)

    def finish(self, answer: Any, error: BaseException | None = None) -> None:
        """Tell of the last state."""
        if not self.done and not self.dropped:
            self.done = True
            self.follower(answer)
