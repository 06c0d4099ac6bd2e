"""What the functions of an app write of their runs into a file that all its processes share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from framework import current_task


def nothing() -> str:
    """Return no further words."""
    return ""


@contextmanager
def noted(file: str, slot: str, more: Callable[[], str] = nothing) -> Iterator[str]:
    """Write down that a body begins, and that it ends or raises; yield the id of its task.

    Args:
        file: Where.
        slot: The kind of the task and its key.
        more: Returns what else stands at the end of each line.
    """
    task = current_task()
    assert task is not None
    task_id = task.task_id

    def note(word: str) -> None:
        line = f"{word} {task_id} {os.getpid()} {slot}{more()}\n"
        opened = os.open(file, os.O_APPEND | os.O_WRONLY | os.O_CREAT)
        os.write(opened, line.encode())
        os.close(opened)

    note("begin")
    try:
        yield task_id
    except BaseException:
        note("stop")
        raise
    note("end")
