"""An engine and a store work with what the protocols show of a task, and with nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import framework
from framework._tasks.live import LiveTask, copy_record
from framework.protocols import TaskRecord

PACKAGE = Path(framework.__file__).parent
PARTS = sorted([*(PACKAGE / "engines").rglob("*.py"), *(PACKAGE / "stores").rglob("*.py")])
INSIDE = {"LiveTask", "live"}
"""What shows a task as the manager has it."""


def test_no_part_looks_inside_a_task() -> None:
    """No engine and no store imports what shows a task as the manager has it."""
    assert len(PARTS) > 40
    imported = {
        path.relative_to(PACKAGE).as_posix(): {
            alias.name
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for path in PARTS
    }
    wrong = {path: names & INSIDE for path, names in imported.items() if names & INSIDE}
    assert not wrong, wrong


def test_notes_cost_nothing_until_they_are_made() -> None:
    """A task without notes of its engine and its store keeps nothing for them."""
    task = LiveTask()
    task.rest = None

    assert (task.engine_note, task.store_note, task.rest) == (None, None, None)


def test_the_stores_note_is_copied() -> None:
    """A copy of a record, which is what a store writes, has the store's note."""
    record = TaskRecord()
    for name in TaskRecord.__slots__:
        setattr(record, name, None)
    record.store_note = "text"

    assert copy_record(record).store_note == "text"
