"""The Celery settings that the engine depends on, and the priorities that follow from them.

Redis has a list for each step of priority, and workers take from the first one that is not
empty. RabbitMQ orders the messages of a queue that was declared with a maximum priority. Neither
lets a message of a lower priority go first now and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from framework._tasks.options import NORMAL, PRIORITIES
from framework._tasks.specs import TaskSpec
from framework.protocols import TaskFunction

MARGIN: Final = 30.0
"""Seconds by which the visibility timeout is longer than the longest limit."""

_RABBITMQ_PATIENCE: Final = 1_800
"""Seconds after which RabbitMQ takes back an unacknowledged message, unless its
``consumer_timeout`` says otherwise."""

HOLD: Final = 20.0
"""Seconds for which a worker may hold a message back and still run it up to its limit before
the broker delivers the message to another one."""

_WANTED: Final[dict[str, Any]] = {
    # A message is acknowledged when its task has ended, so that a dead worker loses nothing.
    "task_acks_late": True,
    # When a pool process dies, its message is returned immediately.
    "task_reject_on_worker_lost": True,
    # No worker holds messages that another could run.
    "worker_prefetch_multiplier": 1,
    # A worker reconnects to Redis, also while it starts.
    "broker_connection_retry_on_startup": True,
    "result_expires": 86_400,
}
_TO_REDIS: Final[dict[str, Any]] = {
    # Look for messages of dead workers every second, not only every hundred seconds.
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    # A worker that is killed while it looks leaves its lock, which stops all others for as long:
    # for five minutes by default. Two that look at once do no harm, since each message is
    # restored in a transaction.
    "unacked_mutex_expire": 10,
}
_TO_RABBITMQ: Final[dict[str, Any]] = {
    # A message counts as sent when the broker confirms it.
    "confirm_publish": True,
}


def prepare(app: Any) -> None:  # Any: Celery has no types
    """Set the settings that the user has not set, now or once the app is configured.

    Args:
        app: The Celery app.
    """

    def fill(**_: Any) -> None:
        for name, value in _WANTED.items():
            if not app.conf.value_set_for(name):
                app.conf[name] = value

    if app.configured:
        fill()
    else:
        app.on_after_configure.connect(fill, weak=False)


def complete(app: Any, longest: float) -> None:
    """Add the transport options that the user has not set, so that `findings` is empty."""
    wanted: dict[str, Any] = {}
    if is_redis(app):
        wanted = {**_TO_REDIS, "visibility_timeout": round(longest + MARGIN)}
    elif is_rabbitmq(app):
        wanted = _TO_RABBITMQ
    if wanted:
        given = dict(app.conf.broker_transport_options or {})
        app.conf.broker_transport_options = {**wanted, **given}


def findings(app: Any, longest: float) -> Iterator[tuple[str, str, str]]:
    """Yield the problems of the settings: (setting, problem, solution).

    Args:
        app: The Celery app.
        longest: The longest limit in seconds.
    """
    visible, needed = visibility(app), round(longest + MARGIN)
    if visible < needed and (is_redis(app) or is_rabbitmq(app)):
        what = (
            f"is {visible:g} s, and tasks may run for {longest:g} s: the broker would deliver a "
            "running task to another worker too"
        )
        cure = f"set it to {needed} or more, or remove it"
        if is_rabbitmq(app):
            cure = (
                f"increase RabbitMQ's timeout (consumer_timeout = {needed * 1000} in "
                f"rabbitmq.conf) and set it here (to {needed}), or use shorter time limits"
            )
        yield "broker_transport_options['visibility_timeout']", what, cure
    options = app.conf.broker_transport_options or {}
    if is_rabbitmq(app) and not options.get("confirm_publish", True):
        what = "is off: if RabbitMQ crashes, it loses tasks that it has just accepted"
        yield "broker_transport_options['confirm_publish']", what, "remove it"
    for name in ("task_acks_late", "task_reject_on_worker_lost"):
        if not app.conf[name]:
            yield name, "is off: a worker's death would lose its tasks", "remove it"
    allowed = ("json", "application/json")
    accepted = [one for one in app.conf.accept_content or () if one not in allowed]
    if accepted:
        what = f"has {', '.join(accepted)}: a message of that kind could run any code"
        yield "accept_content", what, "remove it, or set it to ['json']"
    if app.conf.task_always_eager:
        what = "is on: tasks would run where they are submitted"
        cure = "remove it; in tests the plugin replaces the engine anyway"
        yield "task_always_eager", what, cure


def visibility(app: Any) -> float:
    """Return the broker's visibility timeout in seconds."""
    options = app.conf.broker_transport_options or {}
    default = _RABBITMQ_PATIENCE if is_rabbitmq(app) else 3_600
    return float(options.get("visibility_timeout", default))


def shown(url: object) -> str:
    """Return a URL without user and password."""
    text = str(url or "none")
    scheme, mark, rest = text.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def is_redis(app: Any) -> bool:
    """Whether the broker is a Redis."""
    return broker_url(app).startswith(("redis", "sentinel"))


def is_rabbitmq(app: Any) -> bool:
    """Whether the broker is a RabbitMQ."""
    return broker_url(app).startswith(("amqp", "pyamqp"))


def broker_url(app: Any) -> str:
    """Return the broker's URL; the first one if there are several."""
    given = app.conf.broker_url or ""
    return str(given if isinstance(given, str) else next(iter(given), ""))


def require_good(app: Any, longest: float) -> None:
    """Complete the settings, and check them.

    Raises:
        ValueError: If the engine could lose tasks or run them twice.
    """
    complete(app, longest)
    found = "; ".join(f"{name} {what}; {cure}" for name, what, cure in findings(app, longest))
    if found:
        raise ValueError(f"wrong settings of the Celery app: {found}")


# -- the priorities of tasks, as the broker has them

_STEPS: Final = (0, 3, 6, 9)
"""The steps of a Redis broker, if the app does not set others."""


def levels(app: Any) -> tuple[int, ...]:
    """Return the broker's priority for each of `PRIORITIES`; empty if it has none.

    Args:
        app: The Celery app.
    """
    if is_redis(app):
        options = app.conf.broker_transport_options or {}
        steps = sorted(options.get("priority_steps", _STEPS))
        return tuple(steps[: len(PRIORITIES)]) if len(steps) >= len(PRIORITIES) else ()
    most = app.conf.task_queue_max_priority
    if is_rabbitmq(app) and most is not None and most >= len(PRIORITIES) - 1:
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
    if is_redis(app):
        return (
            "broker_transport_options['priority_steps'] of the Celery app has fewer than "
            f"{len(PRIORITIES)} steps; remove it"
        )
    if is_rabbitmq(app):
        return (
            "RabbitMQ has priorities only in queues that were declared with a maximum; set "
            "task_queue_max_priority = 10 on the Celery app, and delete the queue if it exists"
        )
    return "the broker has no priorities; use Redis or RabbitMQ"
