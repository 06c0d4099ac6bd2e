"""The command about processes: what each of them has to do."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from framework._running.log import escaped
from framework.cli._facts import moment
from framework.cli._mistakes import GOOD
from framework.cli._screen import Screen
from framework.cli._sources import Source
from framework.stores.sql._reading.observer import Busy

_HEAD: Final = ("HOST", "PID", "STARTED", "PLACES", "RUNNING", "WAITING")


def workers(source: Source, screen: Screen, _: Namespace) -> int:
    """Print the processes that share the tasks, those that only submit as well."""
    found, free = source.observer.processes()
    screen.objects([_facts_of(one) for one in found], _HEAD, _row, "no processes")
    screen.say(f"{free} tasks wait for a process that has a place for them")
    return GOOD


def _facts_of(one: Busy) -> dict[str, Any]:  # Any: JSON
    """Return a process as JSON."""
    return {
        **asdict(one.process),
        "started_at": datetime.fromtimestamp(one.since, UTC).isoformat(),
        "places": one.places,
        "running": one.running,
        "waiting": one.waiting,
    }


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    places = facts["places"]
    return (
        escaped(facts["host"]),
        str(facts["pid"]),
        moment(facts["started_at"]),
        "" if places is None else str(places),
        str(facts["running"]),
        str(facts["waiting"]),
    )
