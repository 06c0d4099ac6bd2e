"""scheduled_task: a function that every running framework runs again and again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from framework._decorators.dressing import decorate, dress
from framework._manager.frameworks import find_core
from framework._tasks import checks, registry
from framework._tasks.current import current_home
from framework._tasks.decorated import ScheduleDecorator
from framework._tasks.functions import checker_for, kind_of, name_of, one_line
from framework._tasks.live import Home
from framework._tasks.options import COPY
from framework._tasks.specs import Schedule, TaskSpec


def scheduled_task(
    every: float,
    *,
    jitter: float = 0.0,
    run_at_start: bool = False,
    name: str | None = None,
) -> ScheduleDecorator:
    """Run a function at a fixed interval while a framework runs.

    Each run is a task. Run times are counted from the framework's start, on its clock; there is
    no cron and no time of day. Runs do not overlap: if a run has not finished when the next one
    is due, the next one is skipped and counted. Missed runs are not repeated later. An error
    does not end the schedule. If you call the function yourself, it runs directly.

    The schedule lasts as long as something refers to the decorated function. If it is created
    while a framework runs, in a lifespan, a request or a task, and not by an import, only that
    framework runs it, and it ends with the framework.

    Args:
        every: Seconds from one run to the next, above 0.
        jitter: Delay each run at random by up to this fraction of *every*, 0.0 to 1.0.
        run_at_start: Whether to run it immediately at the start too.
        name: The name of the tasks; None for the function's module and qualified name.

    Returns:
        A decorator for a function that can be called without arguments.

    Raises:
        TypeError: If it is used without parentheses, the function needs arguments, the order
            of decorators is wrong, or a parameter has the wrong type.
        ValueError: If a number is out of range.
    """
    if callable(every):
        raise TypeError(
            "scheduled_task has no default interval: use @scheduled_task(every=60), not "
            "@scheduled_task"
        )
    seconds = checks.number("every", every, above=0)
    share = checks.number("jitter", jitter, at_least=0, at_most=1)
    checks.flag("run_at_start", run_at_start)
    label = None if name is None else one_line(checks.text("name", name))

    def make(fn: Callable[..., Any]) -> Any:
        return _scheduled(fn, label, seconds, share, run_at_start)

    return lambda it: decorate("scheduled_task", it, make)


def _scheduled(
    fn: Callable[..., Any], name: str | None, every: float, jitter: float, at_start: bool
) -> Any:
    spec = TaskSpec(
        fn,
        name=name_of(fn) if name is None else name,
        kind=kind_of(fn),
        check=checker_for(fn),
        options=COPY.complete({"description": f"every {every:g} s"}),
    )
    if spec.check is not None:
        try:
            spec.check()
        except TypeError as error:
            raise TypeError(
                f"scheduled_task calls {spec.name} without arguments, but it needs some: {error}"
            ) from None

    def sync_inner() -> Any:
        return fn()

    async def async_inner() -> Any:
        return await fn()

    schedule = Schedule(spec, every, jitter, at_start)
    inner: Any = async_inner if spec.kind == "loop" else sync_inner
    dressed = dress(inner, fn, "scheduled_task", __asyncframe_schedule__=schedule)
    registry.register(spec.name, dressed)
    core = None if registry.is_lasting() or _by_an_import() else find_core()
    if core is None:
        registry.add_schedule(schedule)
    else:
        home: Home | None = current_home.get()
        core.schedules.add_own(schedule, home if home is not None and home.core is core else None)
    return dressed


def _by_an_import() -> bool:
    """Whether the code that runs is a module's, or was called by it while it is imported.

    What such code makes lasts as long as the module, whatever has imported it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
