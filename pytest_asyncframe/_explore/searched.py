"""What a search without a failure has shown, in words that say no more than that."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from pytest_asyncframe._explore.deaths import Rows
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.policies.search import counted
from pytest_asyncframe._explore.schedule import Step

NO_FAULT = (
    "No fault was possible: no task that has run is retried or idempotent, so the app does not "
    "promise to cope with any. Leave out faults=True, or plan faults with task_faults."
)


@dataclass(eq=False)
class AtLevel:
    """The search at one level.

    Attributes:
        level: The level.
        rows: Decide which schedules are run there, and where the process dies in them.
        runs: How many runs there were.
        is_done: Whether all schedules have run.
    """

    level: Level
    rows: Rows
    runs: int = 0
    is_done: bool = False


@dataclass(eq=False)
class Searched:
    """What a search has shown so far.

    Attributes:
        runs: How many runs there were.
        paused: How many of them had drawn delays.
        levels: Those that were begun, in order.
        claims: Which schedules they were, for each level that had any of its own.
        default: The steps of the default schedule at the latest level, and how many timeouts could
            have come early in it; None before it has run.
        deepest: The latest level that had schedules of its own; None before one has run.
        uncontrolled: What the runs have met that no chooser controls, in order, each once.
        faults: Whether a fault was possible.
        hint: What a run of lines shows of races, in a few words; "" for nothing.
    """

    runs: int = 0
    paused: int = 0
    levels: list[Level] = field(default_factory=list)
    claims: dict[Level, str] = field(default_factory=dict)
    default: tuple[Sequence[Step], int] | None = None
    deepest: AtLevel | None = None
    uncontrolled: dict[str, None] = field(default_factory=dict)
    faults: bool = False
    hint: str = ""

    def begin(self, level: Level) -> None:
        """Take note that a level is begun, which it may be once more."""
        if level not in self.levels:
            self.levels.append(level)

    @property
    def proof(self) -> str:
        """What the runs prove, in a few words."""
        return none_fails(", then ".join(self.claims.values()) or self.all_of(self.runs))

    def all_of(self, runs: int) -> str:
        """Return what to call all runs of the test, if no more is known of them."""
        levels = f"{'levels' if len(self.levels) > 1 else 'level'} {' and '.join(self.levels)}"
        then = f", then {self.paused} with drawn delays" if self.paused else ""
        return f"{counted(runs - self.paused, 'run')} of {levels}{then}"


def none_fails(schedules: str) -> str:
    """Return the sentence that *schedules*, such as "the only schedule", have no failure."""
    alone = schedules.startswith("the ") and "," not in schedules
    return f"{schedules} does not fail" if alone else f"{schedules}, none fails"


def partially(uncontrolled: Collection[str]) -> list[str]:
    """Return the lines of a report that say what was met that no chooser controls."""
    if not uncontrolled:
        return []
    return [
        "partially controlled, so a run may go another way next time, because of:",
        *(f"  {one}" for one in uncontrolled),
    ]


def times(runs: int, *, races: bool = False) -> str:
    """Return the line of a report that says how often the test has run, all in all.

    Args:
        runs: How often.
        races: Whether one of these was to look for races.
    """
    before = (
        "twice before these, to fill caches and to look for races"
        if races
        else ("once before these, to fill caches")
    )
    return f"The test ran {counted(runs, 'time')}: {before}, and once after them, for this report."
