"""scheduled_task: a function that is run again and again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, tzinfo
from types import FrameType
from typing import Any, Unpack

from framework._decorators.dressing import Dress, decorate
from framework._decorators.submitted import check_requeued
from framework._manager.frameworks import find_core
from framework._records.due import Cron, Daily, DueTimes, Every, Once, interval
from framework._tasks import registry
from framework._tasks.decorated import ScheduleDecorator
from framework._tasks.functions import checker_for, kind_of, name_of, signature_of
from framework._tasks.injection import injected
from framework._tasks.live import Home, current_home
from framework._tasks.options import COPY, SCHEDULE, ScheduleOptions, merged
from framework._tasks.specs import Schedule, TaskSpec


@SCHEDULE.spelled_out
def scheduled_task(
    every: float | timedelta | None = None, **options: Unpack[ScheduleOptions]
) -> ScheduleDecorator:
    """Run a function at an interval, at a time of day, or by a cron expression.

    Give exactly one of *every*, *cron* and *at*. Each run is a task. Runs do not overlap: if a
    run has not finished when the next one is due, the next one is skipped and counted. An error
    does not end the schedule. If you call the function yourself, it runs directly.

    Processes that share a store or an engine run each due time once, whichever of them is first.
    Then an interval is counted from the epoch, so that all have the same due times. Otherwise each
    process has runs of its own, and counts the interval from its start.

    The schedule lasts as long as something refers to the decorated function. If it is created
    while a framework runs, in a lifespan, a request or a task, and not by an import, only that
    framework runs it, and it ends with the framework.

    Args:
        every: Seconds from one run to the next, or a timedelta, above 0.
        **options: See `ScheduleOptions`.

    Returns:
        A decorator for a function that can be called without arguments. If it has a parameter
        ``due``, it gets the due time of the run, as a datetime in the zone of the schedule.

    Raises:
        TypeError: If it is used without parentheses, the function needs arguments, the order
            of decorators is wrong, there is not exactly one of *every*, *cron* and *at*, or a
            parameter has the wrong type.
        ValueError: If a number is out of range, or something is no cron expression, time or
            time zone.
        ImportError: If *cron* is given and cronsim is not installed.
    """
    if callable(every):
        raise TypeError(
            "scheduled_task has no default interval: use @scheduled_task(every=60), not "
            "@scheduled_task"
        )
    complete = SCHEDULE.complete(SCHEDULE.checked("scheduled_task", options))
    times = _times_of(every, complete)
    return lambda it: decorate("scheduled_task", it, lambda fn: _scheduled(fn, times, complete))


def _times_of(every: object, options: ScheduleOptions) -> DueTimes:
    """Return when a function is due, if exactly one parameter says so."""
    cron, at, tz = options["cron"], options["at"], options["tz"]
    given = [
        name for name, one in (("every", every), ("cron", cron), ("at", at)) if one is not None
    ]
    if len(given) != 1:
        raise TypeError(
            "scheduled_task needs exactly one of every, cron and at, as in @scheduled_task(every="
            f"60), @scheduled_task(cron='0 3 * * *') or @scheduled_task(at='03:00'), not "
            f"{' and '.join(given) or 'none of them'}"
        )
    if options["jitter"] and every is None:
        raise ValueError(
            f"jitter is a fraction of every, and goes with nothing else, not with {given[0]}"
        )
    if tz is not None and not (cron or isinstance(at, time)):
        raise ValueError(
            f"tz is the time zone of cron, or of a time of day, and has no meaning with {given[0]}"
        )
    zone = UTC if tz is None else tz
    assert isinstance(zone, tzinfo)
    if cron is not None:
        return Cron(cron, zone)
    if isinstance(at, datetime):
        return Once(at)
    if isinstance(at, time):
        return Daily(at, zone)
    return Every(interval("every", every))


def _scheduled(fn: Callable[..., Any], times: DueTimes, options: ScheduleOptions) -> Any:
    given = {name: value for name, value in options.items() if name in COPY.options}
    run = injected(fn)
    spec = TaskSpec(
        run,
        name=options["name"] or name_of(fn),
        kind=kind_of(fn),
        check=checker_for(run),
        options=merged(
            COPY.defaults, given | {"description": options["description"] or times.text}
        ),
    )
    signature = signature_of(run)
    takes_due = signature is not None and "due" in signature.parameters
    if spec.check is not None:
        try:
            spec.check(**({"due": datetime.now(UTC)} if takes_due else {}))
        except TypeError as error:
            raise TypeError(
                f"scheduled_task calls {spec.name} without arguments, but it needs some: {error}"
            ) from None

    if spec.requeue:
        check_requeued(spec, awaited=False)

    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    async def async_inner(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    schedule = Schedule(spec, times, options, takes_due=takes_due)
    inner: Any = async_inner if spec.kind == "loop" else sync_inner
    dressed = Dress(fn, "scheduled_task").put_on(inner, __asyncframe_schedule__=schedule)
    registry.register(spec.name, dressed)
    core = None if registry.is_lasting() or _by_an_import() else find_core()
    if core is None:
        registry.add_schedule(schedule)
    else:
        home: Home | None = current_home.get()
        core.schedules.add_own(schedule, home if home is not None and home.core is core else None)
    return dressed


def _by_an_import() -> bool:
    """Whether a module is being imported, and its own code has led to this call.

    What such code makes lasts as long as the module, whatever has imported it. Where imports
    leave no such frame, the schedule lasts as long as the framework that runs meanwhile.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
