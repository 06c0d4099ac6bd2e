"""The commands about tasks: list, show, wait, cancel, run-again."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from framework._manager.face.listing import checked_query, cursor
from framework._manager.face.names import full_name, unknown_name
from framework._records.pages import Key, PageQuery, key_of
from framework._records.reasons import is_amid
from framework._records.records import TaskRecord
from framework._records.steps import StepInfo, info_of
from framework._running.log import escaped
from framework._tasks import registry
from framework._threads.clock import SystemClock
from framework.cli._facts import facts_of, lines_of, note_of, seen, short_id, span
from framework.cli._mistakes import FOUND, GOOD, USAGE, CommandError
from framework.cli._screen import Screen, Update
from framework.cli._sources import Source
from framework.exceptions import BrokerUnavailableError

if TYPE_CHECKING:
    from framework.stores.sql._reading.observer import Sight

_EVERY: Final = 0.1
"""Seconds between two looks at a task."""

_WRITTEN: Final = 1.0
"""Seconds after which a process has written a task that it has accepted."""

_HEAD: Final = ("ID", "NAME", "STATUS", "SUBMITTED", "RAN", "NOTE")


def list_tasks(source: Source, screen: Screen, arguments: Namespace) -> int:
    """Print a page of tasks, or all of them."""
    query = _named(source, screen, _query(arguments))
    while True:
        records, place = _page(source, query)
        screen.objects([facts_of(one) for one in records], _HEAD, _row, "no tasks")
        if place is None or not arguments.all:
            break
        query = replace(query, after=place)
    if place is not None:
        screen.say(f"more: --all, or --after {cursor(place, query.oldest_first)}")
    return GOOD


def _named(source: Source, screen: Screen, query: PageQuery) -> PageQuery:
    """Return a query with the full name of what it asks for; complain of one that nobody has."""
    if query.name is None or source.observer.page(replace(query, limit=1)):
        return query
    known = {*source.observer.names(), *(() if source.app is None else registry.names())}
    try:
        name = full_name(query.name, known)
    except ValueError as error:
        raise CommandError(f"--{error}", USAGE) from None
    if name is None:
        screen.complain(f"--{unknown_name(query.name, known)}")
        return query
    return replace(query, name=name)


def _page(source: Source, query: PageQuery) -> tuple[list[TaskRecord], Key | None]:
    """Return a page, and the position of its last task if there are more."""
    records = source.observer.page(replace(query, limit=query.limit + 1))
    shown = records[: query.limit]
    return shown, key_of(shown[-1]) if len(records) > len(shown) else None


def _query(arguments: Namespace) -> PageQuery:
    try:
        return checked_query(
            arguments.status,
            arguments.name,
            arguments.owner,
            arguments.search,
            limit=arguments.limit,
            after=arguments.after,
            oldest_first=arguments.oldest_first,
            label=arguments.label,
            meta=arguments.meta,
        )
    except (TypeError, ValueError) as error:
        raise CommandError(f"--{error}", USAGE) from None


def _row(facts: dict[str, Any]) -> tuple[str, ...]:  # Any: JSON
    passed = datetime.now(UTC) - datetime.fromisoformat(facts["created_at"])
    return (
        short_id(facts["task_id"]),
        escaped(facts["name"] if facts["label"] is None else f"{facts['name']}: {facts['label']}"),
        facts["status"],
        f"{span(max(passed.total_seconds(), 0.0))} ago",
        span(facts["duration"]),
        note_of(facts),
    )


def show(source: Source, screen: Screen, arguments: Namespace) -> int:
    """Print one task."""
    sight = _found(source, arguments.id)
    steps = [info_of(one) for one in source.observer.steps(str(sight.record.task_id))]
    _print(sight, screen, steps)
    return GOOD


def wait(source: Source, screen: Screen, arguments: Namespace) -> int:
    """Wait until a task has ended, and print it."""
    sight = _found(source, arguments.id)
    name = sight.record.name
    with screen.progress(name) as update:
        sight = _until_final(source, sight, arguments.timeout, update)
    _print(sight, screen)
    if not sight.record.status.is_final:
        raise CommandError(f"it has not ended after {arguments.timeout:g} s")
    return GOOD if sight.record.status == "completed" else FOUND


def cancel(source: Source, screen: Screen, arguments: Namespace) -> int:
    """Cancel tasks, and say of each what has come of it."""

    def one(start: str) -> None:
        record = _cancel(source, screen, start, arguments.timeout, at_once=arguments.at_once)
        screen.say(f"task {record.task_id} is cancelled")

    return _each(screen, arguments, one)


def _each(screen: Screen, arguments: Namespace, call: Callable[[str], None]) -> int:
    """Call *call* with each id that is given, and complain of those that it fails for."""
    status = GOOD
    for start in arguments.ids:
        try:
            call(start)
        except CommandError as error:
            screen.complain(str(error))
            status = FOUND
    return status


def _cancel(
    source: Source, screen: Screen, start: str, timeout: float, *, at_once: bool
) -> TaskRecord:
    """Cancel a task.

    Raises:
        CommandError: If it is not CANCELLED; it says why.
    """
    sight = _found(source, start)
    record = sight.record
    if record.status.is_final:
        raise CommandError(f"task {record.task_id} has already ended: {record.status}")
    if record.remote:
        _request_on_workers(source, str(record.task_id))
    else:
        source.observer.request_cancel(str(record.task_id), at_once=at_once)
    # What was seen before knows nothing of the request.
    sight = _until_final(source, source.observer.look(str(record.task_id)) or sight, timeout)
    if screen.as_json:
        screen.json(facts_of(sight.record))
    if sight.record.status != "cancelled":
        raise CommandError(_why_not_cancelled(sight, timeout, at_once=at_once))
    return sight.record


def _request_on_workers(source: Source, task_id: str) -> None:
    engines = [] if source.app is None else source.app.engines
    if not engines:
        raise CommandError(
            f"task {task_id} runs on a worker, which is asked by the app's engine: "
            "add --app module:app"
        )
    for engine in engines:
        try:
            engine.request_cancel(task_id)
        except BrokerUnavailableError as error:
            raise CommandError(str(error)) from None


def _why_not_cancelled(sight: Sight, timeout: float, *, at_once: bool) -> str:
    record = sight.record
    if record.status.is_final:
        return f"task {record.task_id} has ended before it was cancelled: {record.status}"
    if sight.process is None and is_amid(record.reason) and not at_once:
        return (
            f"task {record.task_id} is asked to stop, but no process has it now: the next one of "
            "the app that knows its function goes on with it, so that it can make up for what it "
            "has done; --at-once ends it as it is"
        )
    if sight.process is None and not record.remote:
        return (
            f"task {record.task_id} is asked to stop, but no process has it now: the next one of "
            "the app ends it"
        )
    if record.status == "pending":
        return (
            f"task {record.task_id} is asked to stop, and still pending: its process has not "
            "answered; if it has died, the next one of the app cancels the task"
        )
    return (
        f"task {record.task_id} is asked to stop, and still {record.status} after {timeout:g} s: a "
        "coroutine ends once its cleanup has, a function on a thread where it calls "
        "check_cancelled(); asyncframe wait tells when"
    )


def run_again(source: Source, screen: Screen, arguments: Namespace) -> int:
    """Submit the calls of tasks again that ended without a result; print the new tasks."""

    def one(start: str) -> None:
        old = str(_found(source, start).record.task_id)
        try:
            again = source.observer.run_again(old, datetime.now(UTC).timestamp())
        except ValueError as error:
            raise CommandError(f"task {old} cannot be run again: {error}") from None
        tell_submitted(source, screen, again, f"task {again} repeats {old}")

    return _each(screen, arguments, one)


def tell_submitted(source: Source, screen: Screen, task_id: str, words: str) -> None:
    """Print a task that was submitted from outside, and who is to run it."""
    if screen.as_json:
        screen.json(facts_of(_found(source, task_id).record))
    screen.say(words)
    if not source.observer.has_processes():
        screen.complain(f"no process runs now: the next one of the app runs task {task_id}")


# -- looking for a task


def _found(source: Source, start: str) -> Sight:
    """Return the task with an id that is, or begins with, *start*.

    Raises:
        CommandError: If there is none, or more than one.
    """
    clock = SystemClock()
    end = clock.monotonic() + _WRITTEN
    while not (ids := source.observer.find(start)):
        # Its process may have told the id, and not have written the task yet.
        if clock.monotonic() > end or not source.observer.has_processes():
            break
        clock.sleep(_EVERY)
    if len(ids) > 1:
        raise CommandError(f"several ids begin with {start!r}: {', '.join(sorted(ids))}")
    sight = source.observer.look(ids[0]) if ids else None
    if sight is None:
        raise CommandError(f"there is no task {start!r} in {source.observer!r}")
    return sight


def _until_final(
    source: Source, sight: Sight, timeout: float | None, update: Update | None = None
) -> Sight:
    """Look at a task until it has ended, or for *timeout* seconds; return the last look."""
    clock, task_id = SystemClock(), str(sight.record.task_id)
    end = None if timeout is None else clock.monotonic() + timeout
    while not sight.record.status.is_final and (end is None or clock.monotonic() < end):
        if update is not None:
            record = sight.record
            told = record.progress_message or seen(record).reason or record.status
            update(record.progress, told)
        clock.sleep(_EVERY)
        latest = source.observer.look(task_id)
        if latest is None:
            raise CommandError(f"task {task_id} was removed from the store")
        sight = latest
    return sight


def _print(sight: Sight, screen: Screen, steps: Sequence[StepInfo] = ()) -> None:
    facts = facts_of(sight.record)
    if steps:
        facts["steps"] = [one.to_dict() for one in steps]
    if screen.as_json:
        screen.json(facts)
        return
    process = ""
    if not sight.record.status.is_final:
        its = sight.process
        process = "none" if its is None else f"{its.pid} on {its.host}"
    screen.pairs(lines_of(facts, process))
    if steps:
        screen.table(("STEP", "STATE", "TOOK", "ERROR"), map(_step_row, steps))


def _step_row(step: StepInfo) -> tuple[str, ...]:
    error = "" if step.error_type is None else f"{step.error_type}: {step.error_message}"
    return escaped(step.name), step.state, span(step.duration), escaped(error)
