"""Celery's settings, as far as what the engine promises hangs on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

MARGIN: Final = 30.0
"""Seconds by which the visibility timeout is longer than the longest limit."""

HOLD: Final = 20.0
"""Seconds for which a worker may keep a message back and still run it to its limit before
the broker gives the message to another one."""

_WANTED: Final[dict[str, Any]] = {
    # A message is acknowledged when its task has ended, so that a death loses nothing.
    "task_acks_late": True,
    # The death of a pool child gives its message back at once.
    "task_reject_on_worker_lost": True,
    # No worker keeps messages that another could run.
    "worker_prefetch_multiplier": 1,
    # A worker that has lost Redis comes back, also while it starts.
    "broker_connection_retry_on_startup": True,
    "result_expires": 86_400,
}
_TRANSPORT: Final[dict[str, Any]] = {
    # Look for messages of dead workers each second, and not each hundredth.
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}


def prepare(app: Any) -> None:  # Any: Celery has no types
    """Set what the user has not set, now or once the app is configured.

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
    """Add to the transport's options what the user has left out; then `findings` is empty."""
    if not is_redis(app):
        return
    given = dict(app.conf.broker_transport_options or {})
    app.conf.broker_transport_options = {
        **_TRANSPORT, "visibility_timeout": round(longest + MARGIN), **given,
    }  # fmt: skip


def findings(app: Any, longest: float) -> list[tuple[str, str, str]]:
    """Return what is wrong with the settings: (setting, what is wrong, what to do).

    Args:
        app: The Celery app.
        longest: The longest limit in seconds.
    """
    conf = app.conf
    options = conf.broker_transport_options or {}
    visible, needed = options.get("visibility_timeout", 3_600), round(longest + MARGIN)
    found = []
    if visible < needed and is_redis(app):
        what = (
            f"is {visible} s, and tasks may run for {longest:g} s: the broker would hand a "
            "running task to a second worker"
        )
        cure = f"make it {needed} or more, or leave it out"
        found.append(("broker_transport_options['visibility_timeout']", what, cure))
    found += [
        (name, "is off: a worker's death would lose its tasks", "leave it out")
        for name in ("task_acks_late", "task_reject_on_worker_lost")
        if not conf[name]
    ]
    accepted = _refused(conf.accept_content)
    if accepted:
        what = f"has {', '.join(accepted)}: a message of that kind could run any code"
        found.append(("accept_content", what, "leave it out, or make it ['json']"))
    if conf.task_always_eager:
        what = "is on: tasks would run where they are submitted"
        cure = "leave it out; in tests the embedded engine takes the place of this one"
        found.append(("task_always_eager", what, cure))
    return found


def is_redis(app: Any) -> bool:
    """Whether the broker forgets who has a message after a time, as Redis does."""
    return str(app.conf.broker_url or "").startswith(("redis", "sentinel"))


def _refused(accepted: Iterable[str] | None) -> list[str]:
    return [one for one in accepted or () if one not in ("json", "application/json")]


def require_good(app: Any, longest: float) -> None:
    """Complete the settings and see that they keep what the engine promises.

    Raises:
        ValueError: If they do not.
    """
    complete(app, longest)
    found = findings(app, longest)
    if found:
        raise ValueError(
            "the settings of the Celery app do not fit: "
            + "; ".join(f"{name} {what}; {cure}" for name, what, cure in found)
        )
