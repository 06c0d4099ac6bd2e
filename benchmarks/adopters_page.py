"""Tells what `adopters` measured: the first part of the page on performance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks._measure import OURS
from benchmarks._report import (
    Group,
    Place,
    Run,
    Table,
    figures,
    folded,
    picture,
    tied,
)
from benchmarks._rows import Row
from benchmarks.adopters import (
    APP,
    CASES,
    CELERY,
    CREATE_TASK,
    DATABASE,
    NO_TASK,
    PREFIX,
    WORKERS,
)

SECTION = "adopters"
"""The section's name."""

DEFAULT = "default polling"
"""Ends the names of cases that differ from another one only in how often they look."""

BACKGROUND = ("BackgroundTasks, async", "BackgroundTasks, sync")
REDIS = (CELERY, "taskiq with Redis", "ARQ", "docket with Redis")
POLLED = ("taskiq with Redis", "ARQ")
"""Those whose results are looked for, again and again."""

PLACES = (APP, DATABASE, WORKERS)


def group_of(run: Run) -> Group | None:
    """Return the group of the section; None if it was not measured."""
    found = [group for group in run.groups if group.key == SECTION and group.rows]
    return found[0] if found else None


def rows_of(group: Group) -> dict[str, Row]:
    """Return the rows by the name of their figure."""
    return {row.key.removeprefix(PREFIX): row for row in group.rows}


def label_of(name: str) -> str:
    """Return what a case is called among those of the same place."""
    return CASES[name].label or name


def placed(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of cases by place, in the page's order; the one without a task is in none.

    Args:
        names: Those to sort; others are left out.
    """
    wanted = set(names) - {NO_TASK}
    by_place = {
        place: [name for name, case in CASES.items() if case.where == place and name in wanted]
        for place in PLACES
    }
    return {place: found for place, found in by_place.items() if found}


def time(microseconds: float) -> str:
    """Return a time in the unit that suits it."""
    units = {"s": 1e6, "ms": 1e3, "µs": 1.0}
    unit = next((unit for unit, one in units.items() if microseconds >= one), "µs")
    value = microseconds / units[unit]
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"


def rate(microseconds: float) -> str:
    """Return how many go into a second, of those that take so long each."""
    return f"{float(f'{1e6 / microseconds:.3g}'):,.0f}"


def size(mebibytes: float) -> str:
    """Return an amount of memory."""
    return f"{mebibytes:,.0f} MiB"


# -- sentences


@dataclass(frozen=True)
class Answer:
    """A sentence about ours, and the same figure of others.

    Attributes:
        figure: Name of the figure.
        ours: The sentence; ``{}`` stands for the figure of the first case.
        names: Ours, and the cases that are shown beside it, in order.
    """

    figure: str
    ours: str
    names: Sequence[str]

    def told(self, rows: Mapping[str, Row]) -> str:
        """Return it as an item of a list; "" if ours was not measured."""
        samples = rows[self.figure].samples if self.figure in rows else {}
        spoken = {name: tied(time(samples[name].median)) for name in self.names if name in samples}
        first, *others = self.names
        if first not in spoken:
            return ""
        beside = ", ".join(f"{spoken[name]} ({name})" for name in others if name in spoken)
        sentence = self.ours.format(f"**{spoken[first]}**")
        return f"- {sentence} Beside it: {beside}." if beside else f"- {sentence}"


ANSWERS = (
    Answer(
        "task_cpu",
        "A task in your app's process takes {} of CPU time, with its id, status and result.",
        (OURS, CREATE_TASK, *BACKGROUND, "taskiq in memory, async", "docket in memory"),
    ),
    Answer(
        "request_p50",
        "A request that starts one is answered after {}.",
        (OURS, NO_TASK, CREATE_TASK, *BACKGROUND, "asyncframe on Celery", CELERY),
    ),
    Answer(
        "request_cpu",
        "It takes {} of the app's CPU time.",
        (OURS, NO_TASK, CREATE_TASK, *BACKGROUND, "asyncframe on Celery", CELERY),
    ),
    Answer(
        "task_cpu",
        "A task that SQLite keeps for other processes, and for after a restart, takes {} of the "
        "app's CPU time.",
        ("asyncframe with SQLite", "asyncframe with PostgreSQL"),
    ),
    Answer(
        "task_cpu",
        "A task on Celery workers takes {} of the CPU time of app and workers.",
        ("asyncframe on Celery", *REDIS),
    ),
    Answer(
        "result",
        "Whoever waits for a result in the same process has it after {}.",
        (OURS, "taskiq in memory, async"),
    ),
    Answer(
        "result",
        "A result comes back from a Celery worker after {}.",
        ("asyncframe on Celery", *REDIS, *(f"{name}, {DEFAULT}" for name in POLLED)),
    ),
)


# -- tables


def table(
    rows: Mapping[str, Row], columns: Mapping[str, tuple[str, Callable[[float], str]]]
) -> str:
    """Return a table with a line for each case, by place.

    Args:
        rows: By the name of their figure.
        columns: By the name of a figure, the head of its column and how its values are written.
    """
    names = {name for figure in columns if figure in rows for name in rows[figure].samples}
    lines = [[NO_TASK, *_cells(rows, columns, NO_TASK)]] if NO_TASK in names else []
    for place, those in placed(names).items():
        lines.append([f"**{place}**", *[""] * len(columns)])
        lines += [[label_of(name), *_cells(rows, columns, name)] for name in those]
    return Table(["", *(head for head, _ in columns.values())], lines).as_markdown()


def _cells(
    rows: Mapping[str, Row],
    columns: Mapping[str, tuple[str, Callable[[float], str]]],
    name: str,
) -> list[str]:
    return [
        write(rows[figure].samples[name].median)
        if figure in rows and name in rows[figure].samples
        else ""
        for figure, (_, write) in columns.items()
    ]


def some(write: Callable[[float], str]) -> Callable[[float], str]:
    """Return *write*, but with nothing for nothing."""
    return lambda value: write(value) if value else ""


TABLES: dict[str, dict[str, tuple[str, Callable[[float], str]]]] = {
    "A task": {
        "task_cpu": ("CPU time of app and workers", time),
        "broker_cpu": ("and of Redis or PostgreSQL", some(time)),
        "task": ("tasks per second", rate),
        "result": ("result after", time),
    },
    "A request that starts a task": {
        "request_cpu": ("CPU time of the app", time),
        "request": ("requests per second", rate),
        "request_p50": ("one by one: median", time),
        "request_p99": ("99th percentile", time),
    },
    "Memory, with nothing to do": {
        "memory": ("app", size),
        "worker_memory": ("workers", some(size)),
    },
}
"""The columns of each table, by its title."""


def not_measured(group: Group) -> str:
    """Return which cases were not measured, and why; "" if all were."""
    missing = {name: why for row in group.rows for name, why in row.missing.items()}
    return "\n".join(f"- Not measured: {name}, because {why}." for name, why in missing.items())


# -- the part of the page


def as_markdown(run: Run, *, pictures: bool) -> str:
    """Return the part of the page about this run; "" if the section was not measured.

    Args:
        run: What was measured.
        pictures: Whether pictures were drawn of it; without, the tables can be folded out.
    """
    group = group_of(run)
    if group is None:
        return ""
    rows = rows_of(group)
    where = f"{circumstances(run.place, group)}."
    tables = [f"**{title}**\n\n{table(rows, columns)}" for title, columns in TABLES.items()]
    tables += [text for text in [not_measured(group)] if text]
    spreads = [figures(at_all(row)).as_markdown() for row in group.rows]
    if not pictures:
        parts = [where, *tables]
        return folded(f"The same on Python {run.place.minor}", parts)
    shown = [
        picture(f"{SECTION}/{key}", alt)
        for key, (needed, alt) in PICTURES.items()
        if rows.keys() >= needed
    ]
    answers = [text for answer in ANSWERS if (text := answer.told(rows))]
    parts = [*shown, "\n".join(answers), "## In figures", where, *tables]
    return "\n\n".join([*parts, folded("How far the rounds lie apart", spreads)])


def at_all(row: Row) -> Row:
    """Return a row without the cases that have nothing of what it is about."""
    return replace(row, samples={name: own for name, own in row.samples.items() if own.median})


PICTURES = {
    "task": ({"task_cpu"}, "CPU time of one task, for each way to run it"),
    "request": (
        {"request_p50", "request_cpu"},
        "Time and CPU time of a request that starts a task, for each way to run it",
    ),
    "result": ({"result"}, "Time from a call until its result is there, for each way to run it"),
}
"""The figures without which there is no picture, and what it shows, by the picture's key."""


def circumstances(place: Place, group: Group) -> str:
    """Return where, when and how often it was measured, and with which versions."""
    rounds = max(len(samples.values) for row in group.rows for samples in row.samples.values())
    versions = [f"{name} {place.versions[name]}" for name in VERSIONS if name in place.versions]
    return ". ".join([str(replace(place, rounds=rounds)), *filter(None, [", ".join(versions)])])


VERSIONS = (
    *("fastapi", "uvicorn", "celery", "taskiq", "taskiq-redis", "arq", "pydocket"),
    *("sqlalchemy", "psycopg"),
)
"""Packages whose versions are told, by the names that they are installed by."""
