"""What is kept of a step of a task, and of the messages that its steps receive."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

Path: TypeAlias = tuple[int, ...]
"""Which branch of a task: the how manyth of its parent, and so on from the first, which has ()."""

Origin: TypeAlias = tuple[str, Any]
"""What a branch was started with: the name of its function, and its arguments or their digest."""


@dataclass(eq=False, slots=True)
class StepRecord:
    """What is stored of a step.

    Attributes:
        path: Of the branch that has called it.
        origins: What each branch on the path was started with.
        function: Which step.
        digest: Of its arguments, or of its key.
        number: In which order steps of the task have ended, from 1; 0 for one that has not.
        state: How far it came. ``ended`` is one that has failed, and whose error has ended an
            attempt of its task: the next attempt runs it again.
        answer: Its result or its error as JSON; None while it has neither.
        code: A digest of the code that has called it.
        began: Wall second at which its body began; None if unknown.
        ended: Wall second at which it ended; None before, or if unknown.
    """

    path: Path
    origins: tuple[Origin, ...]
    function: str
    digest: str
    number: int = 0
    state: Literal["started", "completed", "failed", "cancelled", "ended"] = "started"
    answer: Any = None
    code: str = ""
    began: float | None = None
    ended: float | None = None


LEFT_BEHIND: Final = "ended"
"""The state of steps that a task does not get from the one that it goes on from."""


class KnownSteps:
    """The steps of a task that has run in this process.

    Args:
        stored: Those that are stored, in the order in which they were.

    Attributes:
        stored: They.
        under_way: Those that run, and are not stored.
        unasked: Those that the last attempt had when it began, and did not ask for.
    """

    def __init__(self, stored: Iterable[StepRecord]) -> None:
        self.stored = dict.fromkeys(stored)
        self.under_way: dict[StepRecord, None] = {}
        self.unasked: Sequence[StepRecord] = ()

    def all(self) -> list[StepRecord]:
        """Return all of them; any thread."""
        return [*self.stored.copy(), *self.under_way.copy()]

    def carried(self) -> KnownSteps:
        """Return those with which another task goes on; any thread."""
        return KnownSteps(replace(one) for one in self.stored.copy() if one.state != LEFT_BEHIND)


RECEIVES: Final = "framework.steps.receive "
"""How the names of the steps begin that wait for messages; those of the messages follow."""

SUBMITS: Final = "framework.steps.submit "
"""How the names of the steps begin that submit tasks; those of the functions follow."""

SLEEPS: Final = "framework.steps.sleep"
"""The name of each sleep."""

AWAITS: Final = "framework.steps.result"
"""The name of each wait for the result of another task."""

StepState: TypeAlias = Literal["running", "waiting", "completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A step of a task, as it was when it was asked for.

    Attributes:
        name: The module and qualified name of its function. That of a sleep is
            ``framework.steps.sleep``, of a wait for the message ``approval``
            ``framework.steps.receive approval``, and of one for the result of another task
            ``framework.steps.result``.
        state: ``running``, or ``waiting`` of a sleep or a wait for a message or a result; or how it
            ended.
        branch: The number of the asyncio task of the run that called it, among those that its
            parent has started, after the parent's own; empty for the task's function itself.
        started_at: When its body began, in UTC; None if unknown.
        ended_at: When it ended, in UTC; None before.
        error_type: The name of its error's class; None if it has none.
        error_message: The error's message; None if it has none.
    """

    name: str
    state: StepState
    branch: Path
    started_at: datetime | None
    ended_at: datetime | None
    error_type: str | None
    error_message: str | None

    @property
    def message(self) -> str | None:
        """The name of the message that it has waited or waits for; None for any other step."""
        return self.name.removeprefix(RECEIVES) if self.name.startswith(RECEIVES) else None

    @property
    def duration(self) -> float | None:
        """Seconds from its start to its end; None if it has not ended, or that is unknown."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "branch": list(self.branch),
            "started_at": None if self.started_at is None else self.started_at.isoformat(),
            "ended_at": None if self.ended_at is None else self.ended_at.isoformat(),
            "duration": self.duration,
            "error_type": self.error_type,
            "error_message": self.error_message,
        }


_SHOWN: Final[dict[str, StepState]] = {
    "completed": "completed",
    "cancelled": "cancelled",
    "failed": "failed",
    "ended": "failed",
}


def info_of(record: StepRecord) -> StepInfo:
    """Return what is shown of a record."""
    shown = _SHOWN.get(record.state)
    waiting: StepState = "running" if record.answer is None else "waiting"
    kind = message = None
    if shown == "failed":
        error = json.loads(record.answer)
        kind, message = error["type"][1], error["text"]
    began, ended = _moment(record.began), _moment(record.ended)
    return StepInfo(record.function, shown or waiting, record.path, began, ended, kind, message)


def said(function: str) -> str:
    """Return what a step is called in a sentence, by the name in its record."""
    if function == SLEEPS:
        return "a sleep"
    if function == AWAITS:
        return "the wait for the result of another task"
    if function.startswith(RECEIVES):
        return f"the wait for message {function.removeprefix(RECEIVES)!r}"
    if function.startswith(SUBMITS):
        return f"the submission of {function.removeprefix(SUBMITS)}"
    return function


def _moment(second: float | None) -> datetime | None:
    return None if second is None else datetime.fromtimestamp(second, UTC)


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message that its task has not received.

    Attributes:
        number: Which of the task's messages, from 1, in the order in which they were sent.
        name: Under which name it was sent.
        value: It, as JSON.
    """

    number: int
    name: str
    value: str


def given_back(records: Iterable[StepRecord]) -> list[MessageRecord]:
    """Return the messages of waits that were cancelled when they had them, and that none has now.

    Args:
        records: Of steps; those of other functions are passed over.
    """
    cancelled, received = list[MessageRecord](), set[int]()
    for one in records:
        if one.answer is None or not one.function.startswith(RECEIVES):
            continue
        kept = json.loads(one.answer)
        # Earlier releases did not keep the number.
        if "number" not in kept:
            continue
        if one.state == "completed":
            received.add(kept["number"])
        else:
            name = one.function.removeprefix(RECEIVES)
            cancelled.append(MessageRecord(kept["number"], name, kept["value"]))
    return [one for one in cancelled if one.number not in received]


class KeptMessages:
    """The messages that a task keeps itself.

    Attributes:
        left: What no step has taken, the oldest first.
        number: That of the latest.
        keys: For each name and key that was sent, the value.
    """

    def __init__(self) -> None:
        self.left: list[MessageRecord] = []
        self.number = 0
        self.keys: dict[tuple[str, str], str] = {}

    def carried(self) -> KeptMessages:
        """Return a copy, for a task that goes on from that of these."""
        made = KeptMessages()
        made.left, made.number, made.keys = [*self.left], self.number, {**self.keys}
        return made


Sent: TypeAlias = Literal["sent", "again", "other", "unknown", "ended"]
"""What became of a message: stored, there already, there with another value, or there is no such
task, or it has ended."""
