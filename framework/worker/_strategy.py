"""Has a worker run each message as the Celery task of its function."""

from __future__ import annotations

from typing import Any, Final

from celery.worker.strategy import default

_NAME: Final = "shadow"
"""The header of a message with its function's name."""


def by_function(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """Return what takes a message of the general task, as Celery's own strategy does.

    If the worker has a task for the function, the message becomes one of that task. So logs,
    monitors and signal handlers see the function's name. A function that was registered too
    late for that, or that the worker does not know, keeps the general task.

    Args:
        task: The general task.
        app: The Celery app.
        consumer: The consumer of the worker, with the strategies of all tasks.
        options: Further arguments of Celery's strategy.
    """
    tasks = task.asyncframe_engine.tasks
    general = default(task, app, consumer, **options)

    def take(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> Any:
        name = message.headers.get(_NAME)
        strategy = consumer.strategies.get(name) if tasks.is_ours(name) else None
        if strategy is None or name == task.name:
            return general(message, body, ack, reject, callbacks)
        message.headers["task"] = name
        return strategy(message, body, ack, reject, callbacks)

    return take
