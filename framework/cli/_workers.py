"""The command about processes: what each of them has to do."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from framework._running.log import escaped
from framework.cli._facts import moment
from framework.cli._mistakes import GOOD
from framework.cli._screen import Screen
from framework.cli._sources import Source
from framework.protocols import ProcessInfo

_HEAD: Final = ("HOST", "PID", "KIND", "STARTED", "PLACES", "RUNNING", "WAITING", "TASKS")


def workers(source: Source, screen: Screen, _: Namespace) -> int:
    """Print the processes that share the tasks, those that only submit as well."""
    found, waiting = source.observer.processes()
    facts = [_facts_of(one, waiting.get(one.process_id, 0)) for one in found]
    screen.objects(facts, _HEAD, _row, "no processes")
    gone = sum(one.is_gone for one in found)
    if gone:
        screen.say(f"{gone} are gone: the next process that starts takes over their tasks")
    screen.say(_told(waiting.get("", 0), found))
    return GOOD


def _told(waiting: int, found: Sequence[ProcessInfo]) -> str:
    """Return how many tasks wait for a place, and what to do if no process has any."""
    them = ("task waits", "it") if waiting == 1 else ("tasks wait", "them")
    told = f"{waiting} {them[0]} for a process that has a place for {them[1]}"
    # Of one that does not say, nothing is known.
    if not waiting or any(one.places != 0 and not one.is_gone for one in found):
        return told
    return f"{told}: none that runs has any, so start one with 'asyncframe worker module:app'"


def _facts_of(one: ProcessInfo, waiting: int) -> dict[str, Any]:  # Any: JSON
    """Return a process as JSON."""
    return {
        "host": one.host,
        "pid": one.pid,
        "kind": one.kind,
        "started_at": _time(one.started_at),
        "places": one.places,
        "running": sum(one.running.values()),
        "running_since": None if one.running_since is None else _time(one.running_since),
        "waiting": waiting,
        "tasks": dict(one.running),
        "gone": one.is_gone,
    }


def _time(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    places = facts["places"]
    return (
        escaped(facts["host"]),
        str(facts["pid"]),
        "gone" if facts["gone"] else facts["kind"],
        moment(facts["started_at"]),
        "" if places is None else str(places),
        str(facts["running"]),
        str(facts["waiting"]),
        ", ".join(
            escaped(name) if many == 1 else f"{many} {escaped(name)}"
            for name, many in facts["tasks"].items()
        ),
    )
