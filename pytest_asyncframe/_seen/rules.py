"""Rules that the framework itself keeps in every test; a broken one is a bug of asyncframe.

Relies on: the events of one task being recorded in their order, and attempts being recorded on
the thread that makes them. Nothing is assumed about the order of what other threads do.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from framework.protocols import TaskEvent, TaskRecord, TaskStatus
from framework.testing import RateLimit, attempt_bound
from pytest_asyncframe._seen.entries import OWN_ENDS, Moment, Start

Finding: TypeAlias = tuple[TaskRecord | None, str]
"""What is wrong, with the task that it is about; None if it is about several."""

_PENDING, _RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
_ENDS = {
    "timed_out" if status is TaskStatus.TIMEOUT else status.value: status
    for status in TaskStatus
    if status.is_final
}
_LATER = ("late_result", "evicted")
"""The events that a task may have after its end."""

_ALLOWED: Mapping[TaskStatus | None, Mapping[str, TaskStatus]] = {
    None: {"submitted": _PENDING},
    _PENDING: {"started": _RUNNING}
    | {kind: end for kind, end in _ENDS.items() if kind not in ("completed", "timed_out")},
    _RUNNING: dict.fromkeys(("started", "progress", "retrying", "throttled", "sleeping"), _RUNNING)
    | _ENDS,
    **{status: dict.fromkeys(_LATER, status) for status in _ENDS.values()},
}
"""For each status the events that may come next, with the status after them."""


@dataclass(slots=True)
class Limits:
    """The limits that were in force in a test.

    Attributes:
        rates: The rates of its throttled functions.
        workers: The highest number of threads of its pool that might work at once.
        pool: Prefix of the names of these threads.
    """

    rates: Sequence[RateLimit] = ()
    workers: int = 0
    pool: str = ""


def broken(moments: Sequence[Moment], starts: Iterable[Start], limits: Limits) -> list[str]:
    """Return a text for each rule that was broken, with the events of its task."""
    found = [*_histories(moments), *_crowds(moments, limits), *_rates(starts, limits.rates)]
    return [_text(record, wrong, moments) for record, wrong in found]


def started_after_stop(moments: Sequence[Moment], stopped: int) -> list[str]:
    """Return a text for each task that has started after the framework had stopped.

    Args:
        moments: Everything that happened.
        stopped: How many of them had happened when it stopped.
    """
    return [
        _text(moment.record, "it started after the framework had stopped", moments)
        for moment in moments[stopped:]
        if isinstance(moment.what, TaskEvent) and moment.what.kind == "started"
    ]


# -- one task


def _histories(moments: Iterable[Moment]) -> Iterator[Finding]:
    """Check the order, stamps and attempts of each task."""
    events: defaultdict[TaskRecord, list[TaskEvent]] = defaultdict(list)
    attempts: Counter[TaskRecord] = Counter()
    for moment in moments:
        record, what = moment.record, moment.what
        if record is None:
            continue
        if type(what) is TaskEvent:
            events[record].append(what)
        elif type(what) is int:
            attempts[record] += 1
    names = Counter(record.task_id for record in events)
    for record, told in events.items():
        yield from _history(record, told, shared=names[record.task_id] > 1)
        if attempts[record] > 1:
            yield from _too_many(record, told, attempts[record])


def _history(record: TaskRecord, events: Iterable[TaskEvent], *, shared: bool) -> Iterator[Finding]:
    """Check the events of one task; others may have had its id before, if that is *shared*."""
    status, at = None, -math.inf
    for event in events:
        if _ALLOWED[status].get(event.kind) is not event.status:
            if shared and event.kind in _LATER:
                # It is about the earlier task.
                continue
            yield record, _misplaced(status, event)
        if event.at < at:
            yield record, f"its event {event.kind} goes back in time"
        status, at = event.status, event.at


def _misplaced(before: TaskStatus | None, event: TaskEvent) -> str:
    status = "no status" if event.status is None else event.status.value
    when = "before it was submitted" if before is None else f"while it was {before.value}"
    return f"the event {event.kind} came {when}, with the status {status}"


def _too_many(record: TaskRecord, events: Iterable[TaskEvent], attempts: int) -> Iterator[Finding]:
    deliveries = sum(event.kind == "started" for event in events)
    bound = attempt_bound(record) * deliveries
    if attempts > bound:
        yield record, f"it has made {attempts} attempts, and {bound} are allowed"


# -- the threads of the pool


def _crowds(moments: Iterable[Moment], limits: Limits) -> list[Finding]:
    """Check how many threads of the pool had an unfinished task at a time."""
    busy: dict[str, list[TaskRecord]] = {}
    ended: set[TaskRecord] = set()
    for moment in moments:
        record, what, lane = moment.record, moment.what, moment.lane
        if record is None or record in ended:
            # The thread of a task that is over is abandoned, and counts no more.
            continue
        if type(what) is TaskEvent and what.kind in _ENDS:
            ended.add(record)
            _remove(busy, record)
        elif type(what) is int and lane.startswith(limits.pool):
            if record not in busy.setdefault(lane, []):
                busy[lane].append(record)
            if len(busy) > limits.workers:
                found = list(_crowd(busy, record, lane, limits.workers))
                if found:
                    # The first one is enough: whoever starts while it lasts would be another.
                    return found
    return []


def _remove(busy: dict[str, list[TaskRecord]], record: TaskRecord) -> None:
    for lane in [lane for lane, tasks in busy.items() if record in tasks]:
        busy[lane].remove(record)
        if not busy[lane]:
            del busy[lane]


def _crowd(
    busy: Mapping[str, Sequence[TaskRecord]], newest: TaskRecord, lane: str, workers: int
) -> Iterator[Finding]:
    working = [lane for lane, tasks in busy.items() if not all(_over(it, newest) for it in tasks)]
    if len(working) > workers:
        others = f"{len(working) - 1} other threads were working"
        yield newest, f"it started on {lane} while {others}, and {workers} may work at once"


def _over(record: TaskRecord, newest: TaskRecord) -> bool:
    """Whether a task had ended before the newest one started, though its event came later."""
    started, ended = newest.started, record.ended
    if started is None or ended is None:
        return False
    return ended < started or (ended == started and record.status not in OWN_ENDS)


# -- throttled functions


def _rates(starts: Iterable[Start], limits: Iterable[RateLimit]) -> Iterator[Finding]:
    """Check the starts of throttled functions against their limits."""
    rates = {limit.name: limit for limit in limits}
    times: defaultdict[str, list[float]] = defaultdict(list)
    if not rates:
        return
    for start in starts:
        if start.throttled in rates:
            # Threads that start together may be recorded in another order.
            insort(times[start.throttled], start.at)
    for name, stamps in times.items():
        limit = rates[name]
        for first, last in zip(stamps, stamps[limit.rate :], strict=False):
            if _within(first, last, limit.window):
                starts_within = f"{limit.rate + 1} times within {limit.window:g} s"
                yield None, f"{name} started {starts_within}, and {limit.rate} are allowed"
                break


def _within(first: float, last: float, window: float) -> bool:
    """Whether two starts are less than a window apart, without the error of rounding."""
    return math.fsum((last, -first, -window)) < 0


# -- the text


def _text(record: TaskRecord | None, wrong: str, moments: Iterable[Moment]) -> str:
    lines = [f"asyncframe has a bug: {wrong}"]
    if record is not None:
        lines[0] = f"asyncframe has a bug in {record.name} ({record.task_id}): {wrong}"
        lines.append("    its events:")
        lines += [f"      {_line(one)}" for one in moments if one.record is record]
    lines.append("    this is no fault of the test: please report it, with these lines")
    return "\n".join(lines)


def _line(moment: Moment) -> str:
    what = moment.what
    if isinstance(what, TaskEvent):
        status = "" if what.status is None else f", {what.status.value}"
        text = f"{what.kind}{status}, attempt {what.attempt}"
    else:
        text = f"attempt {what} started" if isinstance(what, int) else str(what)
    return f"{moment.at:.9g} s  {moment.lane}  {text}"
