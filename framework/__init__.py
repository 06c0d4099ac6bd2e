"""Background tasks for FastAPI that you can see, stop, scale and test."""

from __future__ import annotations

from framework._decorators.retried import retry_task
from framework._decorators.scheduled import scheduled_task
from framework._decorators.submitted import async_task, background_task
from framework._decorators.throttled import throttled_task
from framework._manager.cancelling import CancelAnswer
from framework._manager.face.gathering import MapItem, TaskMap
from framework._manager.face.listing import TaskPage
from framework._manager.face.manager import TaskManager
from framework._manager.face.messages import Kind as _Kind
from framework._manager.face.messages import send_message as _send_message
from framework._manager.frameworks import get_task_manager, get_thread_pool
from framework._manager.frameworks import require_core as _require_core
from framework._records import exports
from framework._records.exports import provided as _provided
from framework._records.ids import TaskId
from framework._records.records import CancelOutcome
from framework._records.schedules import ScheduleInfo
from framework._records.statuses import TaskStatus
from framework._records.steps import StepInfo
from framework._tasks.live import current_task
from framework._tasks.task import Task
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework.exceptions import (
    DuplicateTaskError,
    FrameworkError,
    FrameworkNotStartedError,
    QueueFullError,
    RateLimitExceededError,
    TaskCancelledError,
    TaskFailedError,
    TaskInterruptedError,
    TaskNotFoundError,
    TaskTimeoutError,
)
from framework.lifespan import setup_async_framework

__version__ = "0.2.0"

__all__ = [
    "CancelAnswer",
    "CancelOutcome",
    "DuplicateTaskError",
    "FrameworkError",
    "FrameworkNotStartedError",
    "MapItem",
    "QueueFullError",
    "RateLimitExceededError",
    "ScheduleInfo",
    "StepInfo",
    "Task",
    "TaskCancelledError",
    "TaskFailedError",
    "TaskId",
    "TaskInterruptedError",
    "TaskManager",
    "TaskMap",
    "TaskNotFoundError",
    "TaskPage",
    "TaskStatus",
    "TaskTimeoutError",
    "ThreadPoolExecutorEnhanced",
    "async_task",
    "background_task",
    "current_task",
    "get_task_manager",
    "get_thread_pool",
    "retry_task",
    "scheduled_task",
    "setup_async_framework",
    "throttled_task",
]

exports.pin(globals())


def _load_injector() -> object:
    from framework.http._depends.injector import inject

    return inject


def _load_view() -> object:
    from framework.http.views import TaskView

    return TaskView


async def _send(task_id: str, kind: _Kind, value: object, key: str | None) -> None:
    await _send_message(_require_core(), task_id, kind, value, key)


# Loaded only for a function with dependencies, since it imports FastAPI.
_provided.injector = _load_injector
# And this only for a response model with a task.
_provided.view = _load_view
_provided.send_message = _send
