"""The priorities of tasks, as the broker of a Celery app has them.

Redis has a list for each step of priority, and workers take from the first one that is not
empty. RabbitMQ orders the messages of a queue that was declared with a maximum priority. Neither
lets a message of a lower priority go first now and then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from framework._tasks.options import NORMAL, PRIORITIES
from framework._tasks.specs import TaskSpec
from framework.engines.celery import _settings
from framework.protocols import TaskFunction

_STEPS: Final = (0, 3, 6, 9)
"""The steps of a Redis broker, if the app does not set others."""


def levels(app: Any) -> tuple[int, ...]:
    """Return the broker's priority for each of `PRIORITIES`; empty if it has none.

    Args:
        app: The Celery app.
    """
    if _settings.is_redis(app):
        options = app.conf.broker_transport_options or {}
        steps = sorted(options.get("priority_steps", _STEPS))
        return tuple(steps[: len(PRIORITIES)]) if len(steps) >= len(PRIORITIES) else ()
    most = app.conf.task_queue_max_priority
    if _settings.is_rabbitmq(app) and most is not None and most >= len(PRIORITIES) - 1:
        return most, most // 2, 0
    return ()


def level_of(spec: TaskFunction) -> int:
    """Return the index of a function's priority in `PRIORITIES`."""
    return spec.level if isinstance(spec, TaskSpec) else NORMAL


def require_levels(app: Any, specs: Iterable[TaskFunction]) -> None:
    """Check that the broker has priorities, if some functions need them.

    Raises:
        ValueError: If it has none.
    """
    if levels(app):
        return
    names = sorted(spec.name for spec in specs if level_of(spec) != NORMAL)
    if names:
        raise ValueError(
            f"priority must be 'normal' for {', '.join(names)}: {_why(app)}, or use different "
            "queues by task_routes"
        )


def _why(app: Any) -> str:
    if _settings.is_redis(app):
        return (
            "broker_transport_options['priority_steps'] of the Celery app has fewer than "
            f"{len(PRIORITIES)} steps; remove it"
        )
    if _settings.is_rabbitmq(app):
        return (
            "RabbitMQ has priorities only in queues that were declared with a maximum; set "
            "task_queue_max_priority = 10 on the Celery app, and delete the queue if it exists"
        )
    return "the broker has no priorities; use Redis or RabbitMQ"
