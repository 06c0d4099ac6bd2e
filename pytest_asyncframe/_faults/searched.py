"""Faults that an explored test searches: whether one takes place is a choice like any other.

A fault is possible only where the app promises to cope with it, so that none by itself makes a
test fail: an attempt fails only if another one follows, and a worker dies, or a task is delivered
twice, only if its function is idempotent.
"""

from __future__ import annotations

import asyncio
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from framework.protocols import TaskRecord
from framework.testing import driver_of, is_idempotent, retried_errors
from pytest_asyncframe._faults.planned import InjectedError
from pytest_asyncframe._seen.entries import Submission

TWICE = "it was delivered twice"
"""What is said of a task that is."""

_MOST_CRASHES = 3
"""How often the worker of one task dies at the most."""


class Choices(Protocol):
    """Decides which faults take place."""

    def who(self) -> str:
        """Return the identity of who runs here; "" if that is not controlled."""
        ...

    def choose(self, what: str, options: Sequence[str]) -> int:
        """Return the index of what happens, 0 for nothing.

        Args:
            what: The moment.
            options: The identities of what may happen, two or more.
        """
        ...

    def pause(self) -> None:
        """Let others run before a task runs again."""
        ...


class _RunAgainError(BaseException):
    """Raised in a task whose worker dies: it begins again."""


class Searched:
    """The faults of one run.

    Args:
        choices: Decides.
        fired: Called with a task, what happens to it, and the error that it raises if any.
        second_delivery: Returns what delivers a task once more; None if it has ended.
    """

    def __init__(
        self,
        choices: Choices,
        fired: Callable[[Submission, str, BaseException | None], object],
        second_delivery: Callable[[Submission], Callable[[], None] | None],
    ) -> None:
        self._choices = choices
        self._fired = fired
        self._second_delivery = second_delivery
        self._moments: dict[str, int] = {}
        self._crashes: Counter[TaskRecord] = Counter()

    def begins(self, one: Submission) -> None:
        """Called before the first attempt of a task."""
        if is_idempotent(one.record) and self._happens(one, "its start", [TWICE]):
            deliver = self._second_delivery(one)
            if deliver is not None:
                deliver()

    def after_event(self, one: Submission, kind: str) -> None:
        """Called in a task after an event."""
        if kind != "progress" or not self._may_crash(one):
            return
        driver = driver_of(one.record)
        if one.call.kind == "loop" and driver is not asyncio.current_task():
            # The error would end another coroutine.
            return
        if self._happens(one, "its progress", ["its worker died after it had reported progress"]):
            raise self._crash(one)

    def _may_crash(self, one: Submission) -> bool:
        return is_idempotent(one.record) and self._crashes[one.record] < _MOST_CRASHES

    def _crash(self, one: Submission) -> _RunAgainError:
        self._crashes[one.record] += 1
        return _RunAgainError()

    def around_attempt(self, one: Submission, attempt: Callable[[], Any]) -> Any:
        """Make one attempt of a task with the faults that are chosen for it."""
        return (self._async_attempt if one.call.kind == "loop" else self._attempt)(one, attempt)

    def _attempt(self, one: Submission, attempt: Callable[[], Any]) -> Any:
        self._before(one)
        while True:
            try:
                result = attempt()
                self._after(one)
            except _RunAgainError:
                self._choices.pause()
            else:
                return result

    async def _async_attempt(self, one: Submission, attempt: Callable[[], Any]) -> Any:
        self._before(one)
        while True:
            try:
                result = await attempt()
                self._after(one)
            except _RunAgainError:
                await _one_step()
            else:
                return result

    def _before(self, one: Submission) -> None:
        error = _error_for(one)
        if error is not None:
            text = f"an attempt failed before its work ({type(error).__name__})"
            if self._happens(one, "an attempt", [text], error):
                raise error

    def _after(self, one: Submission) -> None:
        error = _error_for(one)
        texts = []
        if error is not None:
            texts.append(f"an attempt failed after its work was done ({type(error).__name__})")
        if self._may_crash(one):
            texts.append("its worker died after its work was done")
        happens = self._happens(one, "the end of an attempt", texts, error) if texts else 0
        if happens and error is not None and happens == 1:
            raise error
        if happens:
            raise self._crash(one)

    def _happens(
        self,
        one: Submission,
        moment: str,
        texts: Sequence[str],
        error: BaseException | None = None,
    ) -> int:
        """Return which of some faults takes place, from 1; 0 for none."""
        who = self._choices.who()
        if not who:
            return 0
        # Each one has a name of its own, in each run that has made the same choices.
        key = f"{moment} of {who}"
        number = self._moments[key] = self._moments.get(key, 0) + 1
        what = moment if number == 1 else f"{moment}, number {number}"
        options = [f"no fault at {what}: {who}", *(f"{text}: {who}" for text in texts)]
        chosen = self._choices.choose(what, options)
        if chosen:
            text = texts[chosen - 1]
            self._fired(one, text, error if text.startswith("an attempt") else None)
        return chosen


def _error_for(one: Submission) -> BaseException | None:
    """Return an error after which the task makes another attempt; None if there is none."""
    for kind in retried_errors(one.record):
        if issubclass(InjectedError, kind):
            return InjectedError(one.record.name.rpartition(".")[2], 1)
        try:
            return kind("made to fail")
        except Exception as error:  # a constructor may take anything, and raise anything
            del error
    return None


@types.coroutine
def _one_step() -> Iterator[None]:
    """Let the other coroutines of the loop make a step."""
    yield
