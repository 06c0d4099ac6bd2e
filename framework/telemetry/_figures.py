"""The figures of one task manager at a moment, for whatever reports them.

They are those of this process alone, so that the figures of several processes add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from framework._manager.core import Core
from framework._manager.inside import crew_of
from framework._threads.pool import thread_figures


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that a task manager has at any moment.

    Attributes:
        name: Its name, without the prefix of the package.
        text: What it is, for people.
        grows: Whether it counts something, and never goes down.
        largest: Whether that of several processes is the largest of theirs, and not the sum.
        of_schedules: Whether each schedule has one of its own.
    """

    name: str
    text: str
    grows: bool = False
    largest: bool = False
    of_schedules: bool = False


Readings: TypeAlias = dict[tuple[str, str], float]
"""Figures by their name and the name of a schedule, which is "" for all others."""


_FIGURES: Final = (
    Figure("tasks_pending", "Tasks that have not started, delayed ones included."),
    Figure("tasks_delayed", "Tasks that have not started because of their delay."),
    Figure("tasks_running", "Tasks that are running."),
    Figure("tasks_pending_limit", "How many tasks may be pending before more are rejected."),
    Figure("tasks_rejected", "Tasks that were refused, since the queue was full.", grows=True),
    Figure("tasks_evicted", "Finished tasks that were removed from memory.", grows=True),
    Figure("pool_threads_busy", "Threads of the pool that run a task."),
    Figure("pool_threads_limit", "How many threads of the pool may run at once."),
    Figure("pool_threads_abandoned", "Threads whose task ran past its time limit and goes on."),
    Figure("pool_degraded", "1 if too many threads are abandoned to replace them.", largest=True),
    Figure("loop_blocks", "How often the event loop was found to be blocked.", grows=True),
    Figure("schedules", "Schedules that this process knows.", largest=True),
    Figure("schedule_runs_skipped", "Scheduled runs that were skipped.", grows=True),
    Figure(
        "schedule_last_run_timestamp_seconds",
        "When a schedule has last run, in seconds since the epoch.",
        largest=True,
        of_schedules=True,
    ),
    Figure(
        "schedule_next_run_timestamp_seconds",
        "When a schedule is due next, in seconds since the epoch.",
        largest=True,
        of_schedules=True,
    ),
    Figure("schedule_paused", "1 while a schedule is paused.", largest=True, of_schedules=True),
    Figure("store_failing", "1 while the store cannot be written.", largest=True),
    Figure("store_backlog_records", "Records of tasks that wait to be written to the store."),
    Figure("store_errors", "Failed attempts to use the store.", grows=True),
    Figure("broker_unavailable", "1 while the broker cannot be reached.", largest=True),
)

FIGURE: Final = {figure.name: figure for figure in _FIGURES}
"""All figures that there are, by name."""


def labels_of(figure: Figure) -> list[str]:
    """Return the labels of a figure's metric: the name of the schedule, if it is of one."""
    return ["name"] if figure.of_schedules else []


def figures_of(core: Core) -> Readings:
    """Return the figures of a manager; those of parts that it lacks are left out.

    It neither blocks nor waits for a store, and may be called on any thread.
    """
    found = {(name, ""): float(value) for name, value in _plain_figures_of(core).items()}
    for table in core.schedules.tables():
        state = table.known()
        due = None if state.paused else table.next_due()
        next_run = None if due is None else table.moment(due)
        found["schedule_paused", table.name] = float(state.paused)
        if next_run is not None:
            found["schedule_next_run_timestamp_seconds", table.name] = next_run.timestamp()
        if state.ran_at is not None:
            found["schedule_last_run_timestamp_seconds", table.name] = state.ran_at
    return found


def _plain_figures_of(core: Core) -> dict[str, float]:
    """Return the figures that are not of a schedule, by name."""
    own, threads = core.overview.own_figures(), thread_figures(crew_of(core.pool))
    found: dict[str, float] = {
        "tasks_pending": own["pending"],
        "tasks_delayed": len(core.places.delays),
        "tasks_running": own["running"],
        "tasks_pending_limit": core.ledger.queue_size,
        "tasks_rejected": own.get("rejected", 0),
        "tasks_evicted": own.get("evicted", 0),
        "pool_threads_busy": threads["busy"],
        "pool_threads_limit": threads["max_workers"],
        "pool_threads_abandoned": threads["abandoned"],
        "pool_degraded": threads["degraded"],
        "loop_blocks": own.get("loop_blocks", 0),
        "schedules": len(core.schedules),
        "schedule_runs_skipped": own.get("scheduled_skipped", 0),
    }
    shared = core.ledger.shared
    if shared is not None:
        figures = shared.figures()
        found["store_backlog_records"] = figures.get("store_backlog", 0)
        found["store_errors"] = figures.get("store_errors", 0)
    faults = core.faults()
    if "store" in faults:
        found["store_failing"] = bool(faults["store"])
    if "broker" in faults:
        found["broker_unavailable"] = bool(faults["broker"])
    return found
