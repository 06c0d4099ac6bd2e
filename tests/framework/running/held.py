"""An engine that starts nothing by itself, and the table of what moves lead to."""

from __future__ import annotations

from framework import TaskManager, TaskStatus
from framework._tasks.live import LiveTask
from framework.protocols import EngineTask, Kind, Run

MOVES: tuple[TaskStatus, ...] = tuple(one for one in TaskStatus if one != "pending")
"""The statuses that a task can be brought to."""

# What each attempt leads to, by hand: the status, or None where it is refused.
TABLE: dict[tuple[str, str], str | None] = {
    ("pending", "running"): "running",
    ("pending", "completed"): None,
    ("pending", "failed"): "failed",
    ("pending", "timeout"): None,
    ("pending", "cancelled"): "cancelled",
    ("pending", "interrupted"): "interrupted",
    ("running", "running"): "running",
    ("running", "completed"): "completed",
    ("running", "failed"): "failed",
    ("running", "timeout"): "timeout",
    ("running", "cancelled"): "cancelled",
    ("running", "interrupted"): "interrupted",
}
FINAL = ("completed", "failed", "timeout", "cancelled", "interrupted")
TABLE |= {(status, move): None for status in FINAL for move in MOVES}


class HeldEngine:
    """Starts nothing by itself: what it was given waits for the test to run it.

    Attributes:
        held: The tasks that it was given, with what runs them.
        abandoned: The ids of those whose thread was given up.
        refusal: What it raises for the next task; None if it takes it.
    """

    def __init__(self) -> None:
        self.held: list[tuple[EngineTask, Run]] = []
        self.abandoned: list[str] = []
        self.refusal: Exception | None = None

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Keep a task, or refuse it."""
        if self.refusal is not None:
            raise self.refusal
        self.held.append((task, run))

    def withdraw(self, task: EngineTask) -> None:
        """Keep it: a late delivery of a cancelled task must do no harm."""

    def abandon(self, task: EngineTask) -> None:
        """Note it: the thread is the test's own."""
        self.abandoned.append(task.task_id)

    def run_inline(self, task: EngineTask) -> bool:
        """Run nothing inline."""
        return False

    def run_next(self) -> bool:
        """Deliver the oldest task, on this thread; return what the run says."""
        task, run = self.held.pop(0)
        return run(task)


def submitted(manager: TaskManager) -> LiveTask:
    """Return a task of *manager* that was just submitted."""
    task = manager._core.ledger.find(manager.submit_nowait(print))
    assert isinstance(task, LiveTask)
    return task
