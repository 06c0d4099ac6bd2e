"""Settings: the checked options of `setup_async_framework`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from framework._records import checks


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and intervals; see `setup_async_framework` for the fields.

    A smaller `queue_size` of the pool still applies, and its time limit if *task_timeout* is
    None.
    """

    max_workers: int | None = None
    task_timeout: float | None = None
    show_arguments: bool = False
    queue_size: int = 10_000
    result_ttl: float = 86_400.0
    max_finished_tasks: int = 100_000
    cleanup_interval: float = 60.0
    # Of a worker alone, see `hosting.role`.
    only: frozenset[str] | None = None
    role: str = "app"
    # Of one app alone: apps that share a framework may differ in these.
    graceful_shutdown_timeout: float = field(default=30.0, compare=False)
    slow_loop: float = field(default=1.0, compare=False)

    @classmethod
    def checked(cls, **given: Any) -> Settings:  # Any: what a user passed
        """Return settings with these values, one for each field.

        Raises:
            TypeError: If a value has the wrong type.
            ValueError: If a value is out of range.
        """

        def endless(name: str, **bounds: float) -> float:
            return checks.seconds(name, given[name], finite=False, **bounds)

        workers = given["max_workers"]
        if workers is not None:
            workers = checks.integer("max_workers", workers, at_least=0)
        most = checks.integer("max_finished_tasks", given["max_finished_tasks"], at_least=0)
        return cls(
            max_workers=workers,
            task_timeout=checks.limit("task_timeout", given["task_timeout"]),
            show_arguments=checks.flag("show_arguments", given["show_arguments"]),
            queue_size=checks.integer("queue_size", given["queue_size"], at_least=1),
            result_ttl=endless("result_ttl", above=0),
            max_finished_tasks=most,
            cleanup_interval=endless("cleanup_interval", above=0),
            graceful_shutdown_timeout=endless("graceful_shutdown_timeout", at_least=0),
            slow_loop=_checked_slow_loop(given["slow_loop"]),
        )


def _checked_slow_loop(value: object) -> float:
    seconds = checks.seconds("slow_loop", value, at_least=0)
    if 0 < seconds < _SHORTEST:
        raise ValueError(
            f"slow_loop must be 0, to switch it off, or at least {_SHORTEST:g}, not {value!r}"
        )
    return seconds


_SHORTEST: Final = 0.1
"""The shortest block that can be looked for: more often would cost the loop too much."""
