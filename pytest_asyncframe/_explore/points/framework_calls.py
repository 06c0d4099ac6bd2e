"""Level "framework": calls into the framework and its events are points.

Relies on: events being published without a lock of the framework.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from framework import Task, TaskManager
from framework.protocols import TaskEvent
from pytest_asyncframe._turns.sequencer import Sequencer

_CALLS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (
        TaskManager,
        (
            *("get_result", "wait_result", "cancel_task", "get_task"),
            *("get_all_tasks", "get_active_tasks", "get_tasks_by_status", "get_active_count"),
            *("get_stats", "cleanup_completed_tasks"),
        ),
    ),
    (Task, ("report_progress", "check_cancelled", "to_dict")),
)
"""The calls that read or change what other tasks see."""


@contextmanager
def installed(sequencer: Sequencer, manager: TaskManager) -> Iterator[None]:
    """Make the calls and the events of *manager* points inside the block."""

    def on_event(event: TaskEvent) -> None:
        # The call that has caused it has not returned.
        if event.kind != "progress":  # the call that reports it is a point already
            sequencer.point("framework", event.kind, returned=False)

    with pytest.MonkeyPatch.context() as patch:
        for owner, names in _CALLS:
            for name in names:
                patch.setattr(owner, name, _with_point(sequencer, getattr(owner, name)))
        unsubscribe = manager.subscribe(on_event)
        try:
            yield
        finally:
            unsubscribe()


def _with_point(sequencer: Sequencer, real: Callable[..., Any]) -> Callable[..., Any]:
    """Return *real* with a point before it."""
    what = f"{real.__name__}()"
    if inspect.iscoroutinefunction(real):

        @functools.wraps(real)
        async def async_inner(*args: Any, **kwargs: Any) -> Any:
            sequencer.point("framework", what)
            return await real(*args, **kwargs)

        return async_inner

    @functools.wraps(real)
    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        sequencer.point("framework", what)
        return real(*args, **kwargs)

    return sync_inner
