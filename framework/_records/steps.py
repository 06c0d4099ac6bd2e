"""What is kept of a step of a task: where it was called, with what, and how it ended."""

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
