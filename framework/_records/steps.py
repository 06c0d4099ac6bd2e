"""What is kept of a step of a task, and of the messages that its steps receive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

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
        state: How far it came.
        answer: Its result or its error as JSON; None while it has neither.
        code: A digest of the code that has called it.
    """

    path: Path
    origins: tuple[Origin, ...]
    function: str
    digest: str
    number: int = 0
    state: Literal["started", "completed", "failed", "cancelled"] = "started"
    answer: Any = None
    code: str = ""


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


Sent: TypeAlias = Literal["sent", "again", "other", "unknown", "ended"]
"""What became of a message: stored, there already, there with another value, or there is no such
task, or it has ended."""
