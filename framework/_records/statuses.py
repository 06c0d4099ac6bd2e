"""Statuses: what a task may be, and in one table what follows from that.

A new status is a member with a row in `TRAITS`. All other code reads the rows, and names a status
only where it is about that very one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from framework.exceptions import TaskCancelledError, TaskInterruptedError


class TaskStatus(StrEnum):
    """The status of a task; its value is used in JSON.

    ``PENDING`` and ``RUNNING`` are live. The others are final and never change.
    """

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    # For speed: Enum's own __hash__ is Python code, and every task looks statuses up in dicts.
    __hash__ = str.__hash__

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self in FINAL


PENDING: Final = TaskStatus.PENDING
RUNNING: Final = TaskStatus.RUNNING
COMPLETED: Final = TaskStatus.COMPLETED
FAILED: Final = TaskStatus.FAILED
TIMEOUT: Final = TaskStatus.TIMEOUT
CANCELLED: Final = TaskStatus.CANCELLED
INTERRUPTED: Final = TaskStatus.INTERRUPTED


class Looks(NamedTuple):
    """How a status looks.

    Attributes:
        tone: Its colour on the dashboard: a class of the page's styles.
        style: Its colour on a terminal: a style of ``rich``.
        sign: What its icon has in its circle: a path in a square of 16 units; "" for nothing.
    """

    tone: Literal["muted", "accent", "good", "warn", "bad"]
    style: str
    sign: str = ""


@dataclass(frozen=True, slots=True)
class Traits:
    """What follows from a status.

    Attributes:
        words: How it is said in a sentence: "timed out".
        after: The statuses that it may come after; none for the first one.
        looks: How it looks.
        is_final: Whether the task has ended.
        group: The label under which people look for it; "" for its own.
        figure: Under which figure of its pool it is counted once it is final; "" for its event.
        failed: Whether the task has no result although nobody wanted that.
        raised: Whether its function's code, or its time limit, has raised an error that somebody
            should read.
        error: The error of whoever waits for the task, made of its id and name; None for the
            result or the error that the task itself has.
    """

    words: str
    after: tuple[TaskStatus, ...]
    looks: Looks
    is_final: bool = True
    group: str = ""
    figure: str = ""
    failed: bool = False
    raised: bool = False
    error: Callable[[str, str], BaseException] | None = None

    @property
    def label(self) -> str:
        """Its name for people: "Timed out"."""
        return self.words.capitalize()

    @property
    def event(self) -> str:
        """The kind of the event that tells of it, if it is final: ``timed_out``."""
        return self.words.replace(" ", "_")


_GOOD: Final = Looks("good", "green", "M5.6 8.2l1.7 1.7 3.1-3.5")
_BAD: Final = Looks("bad", "red", "M6 6l4 4m0-4l-4 4")
_LATE: Final = Looks("warn", "red", "M8 4.8V8l2 1.6")
_ENDED: Final = Looks("muted", "yellow", "M4 12l8-8")
_LOST: Final = Looks("bad", "magenta", "M8 5v3.4M8 10.9v.1")
_ALWAYS: Final = (PENDING, RUNNING)

TRAITS: Final[Mapping[TaskStatus, Traits]] = {
    # After itself if it is delivered again.
    RUNNING: Traits("running", _ALWAYS, Looks("accent", "cyan"), is_final=False),
    PENDING: Traits("waiting", (), Looks("muted", "dim"), is_final=False),
    COMPLETED: Traits("completed", (RUNNING,), _GOOD),
    FAILED: Traits("failed", _ALWAYS, _BAD, failed=True, raised=True),
    TIMEOUT: Traits("timed out", (RUNNING,), _LATE, group="Failed", failed=True, raised=True),
    CANCELLED: Traits("cancelled", _ALWAYS, _ENDED, error=TaskCancelledError),
    INTERRUPTED: Traits(
        "interrupted",
        _ALWAYS,
        _LOST,
        group="Failed",
        figure="failed",
        failed=True,
        error=TaskInterruptedError,
    ),
}
"""What follows from each status, in the order in which people look for them."""

FINAL: Final = frozenset(status for status, one in TRAITS.items() if one.is_final)
"""The final statuses; ``status in FINAL`` is faster than `TaskStatus.is_final`."""

FAILURES: Final = tuple(status for status, one in TRAITS.items() if one.raised)
"""The statuses of tasks whose error somebody should read."""

WITHOUT_RESULT: Final = tuple(status for status, one in TRAITS.items() if one.failed)
"""The statuses of tasks that have no result although nobody wanted that."""

EVENT_OF: Final = {status: one.event for status, one in TRAITS.items() if one.is_final}
"""The kind of event for each final status."""

END_KINDS: Final = frozenset(EVENT_OF.values())
"""The kinds of events that tell of a task's end."""
