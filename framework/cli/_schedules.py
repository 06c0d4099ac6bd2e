"""The command about schedules: it lists, pauses, resumes and runs them."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from framework._records.schedules import ScheduleState
from framework._running.log import escaped
from framework._tasks import registry
from framework.cli._facts import moment, short_id
from framework.cli._mistakes import GOOD, USAGE, CommandError
from framework.cli._screen import Screen
from framework.cli._sources import Source
from framework.cli._tasks import tell_submitted

ACTIONS: Final = ("list", "pause", "resume", "trigger")

_HEAD: Final = ("NAME", "STATUS", "LAST RUN", "TASK", "NEXT RUN", "SKIPPED", "TIMING")


def schedules(source: Source, screen: Screen, arguments: Namespace) -> int:
    """Print the schedules, or pause, resume or run one."""
    action, name = arguments.action, arguments.name
    if (name is None) != (action == "list"):
        wrong = "takes no name" if action == "list" else "needs the name of a schedule"
        raise CommandError(f"schedules {action} {wrong}", USAGE)
    if action == "list":
        return _print(source, screen, source.observer.schedules())
    now = datetime.now(UTC).timestamp()
    if action == "trigger":
        return _trigger(source, screen, name, now)
    if not source.observer.pause_schedule(name, action == "pause", now):
        raise _unknown(source, name)
    changed = [one for one in source.observer.schedules() if one.name == name]
    return _print(source, screen, changed)


def _trigger(source: Source, screen: Screen, name: str, now: float) -> int:
    try:
        task_id = source.observer.trigger(name, now)
    except LookupError:
        raise _unknown(source, name) from None
    except ValueError as error:
        raise CommandError(f"schedule {name!r} cannot be run now: {error}") from None
    tell_submitted(source, screen, task_id, f"task {task_id} is a run of {name}")
    return GOOD


def _unknown(source: Source, name: str) -> CommandError:
    known = ", ".join(repr(state.name) for state in source.observer.schedules())
    return CommandError(f"there is no schedule {name!r}; there are: {known or 'none'}")


def _print(source: Source, screen: Screen, states: list[ScheduleState]) -> int:
    facts = [_facts_of(source, state) for state in states]
    screen.objects(facts, _HEAD, _row, "no schedules")
    return GOOD


def _facts_of(source: Source, state: ScheduleState) -> dict[str, Any]:  # Any: JSON
    """Return a schedule as JSON."""
    facts = asdict(state)
    for stamp in ("last_due", "ran_at"):
        facts[stamp] = _iso(facts[stamp])
    facts["next_due"] = None if state.paused else _iso(_next_due(source, state))
    return facts


def _next_due(source: Source, state: ScheduleState) -> float | None:
    """Return when a schedule is due next; None if only its app knows, which was not named."""
    known = registry.find_function(state.name) if source.app is not None else None
    schedule = getattr(known, "__asyncframe_schedule__", None)
    if schedule is None:
        return None
    due: float | None = schedule.times.after(datetime.now(UTC).timestamp())
    return due


def _iso(stamp: float | None) -> str | None:
    return None if stamp is None else datetime.fromtimestamp(stamp, UTC).isoformat()


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    return (
        escaped(facts["name"]),
        "paused" if facts["paused"] else "active",
        moment(facts["ran_at"]) or "never",
        short_id(facts["task_id"] or ""),
        moment(facts["next_due"]),
        str(facts["skipped"]),
        escaped(facts["timing"]),
    )
