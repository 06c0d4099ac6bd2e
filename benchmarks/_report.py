"""Tells what a run measured: tables for a terminal, and the measured part of the page."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks._measure import APART, OURS, Samples
from benchmarks._rows import Curve, Flat, Goal, Row

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"

_AFTER_NUMBER = re.compile(r"(?<=[≤\d]) ")
_TIED = "\N{NO-BREAK SPACE}"
_BAR = r"\|"

RATIOS_ONLY = "Only ratios taken within one run can be compared; the rest is there for scale."


@dataclass(frozen=True)
class Place:
    """Where and when a run measured.

    Attributes:
        python: Full version, such as ``3.11.7``.
        implementation: Such as ``CPython``.
        cores: How many this process may use.
        system: Operating system and kind of processor.
        date: In UTC, such as ``2026-11-25``.
        rounds: How many counted.
        versions: Of ours and of the packages in ``requirements.txt``, by name.
    """

    python: str
    implementation: str
    cores: int
    system: str
    date: str
    rounds: int
    versions: Mapping[str, str]

    @property
    def minor(self) -> str:
        """The version without its last number, such as ``3.11``."""
        return ".".join(self.python.split(".")[:2])

    def __str__(self) -> str:
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        rounds = "1 round" if self.rounds == 1 else f"{self.rounds} rounds"
        return f"{self.implementation} {self.python}, {self.system}, {cores}, {rounds}, {self.date}"


@dataclass(frozen=True)
class Group:
    """The rows of one section.

    Attributes:
        key: Name of the section's module.
        title: For readers.
        rows: As measured, in order.
    """

    key: str
    title: str
    rows: list[Row]


@dataclass
class Run:
    """All that one run measured.

    Attributes:
        place: Where and when.
        groups: Those of the sections with rows, in order.
        curves: In order.
        raised: Names of the sections that raised, and so may lack rows.
        complete: Whether all of it was asked for, and given.
    """

    place: Place
    groups: list[Group] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def rows(self) -> list[Row]:
        """The rows of all groups."""
        return [row for group in self.groups for row in group.rows]

    @property
    def publishable(self) -> bool:
        """Whether it is complete, down to the last goal."""
        results = [row.outcome(goal) for row in self.rows for goal in row.goals]
        results += [curve.outcome(goal) for curve in self.curves for goal in curve.flat]
        return self.complete and None not in results


@dataclass(frozen=True)
class Table:
    """Cells of text below their heads."""

    head: Sequence[str]
    lines: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """Return it with columns lined up by spaces."""
        cells = [self.head, *self.lines]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        ruled = [self.head, ["-" * width for width in widths], *self.lines]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in ruled
        )

    def as_markdown(self) -> str:
        """Return it with columns parted by bars, and with numbers tied to their units."""
        lines = [self.head, ["---"] * len(self.head), *self.lines]
        return "\n".join(
            f"| {' | '.join(tied(cell).replace('|', _BAR) for cell in line)} |" for line in lines
        )


# ------------------------------------------------------------------ circumstances


def here(rounds: int) -> Place:
    """Return what this process measures on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return Place(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        date=datetime.now(UTC).date().isoformat(),
        rounds=rounds,
        versions=installed(REQUIREMENTS.read_text().splitlines()),
    )


def installed(requirements: Iterable[str]) -> dict[str, str]:
    """Return the versions of ours, of those named in *requirements*, and of what is in `APART`.

    What is not installed is left out.
    """
    names = [match[0] for line in requirements if (match := re.match(r"[\w.-]+", line))]
    versions = {}
    for name in (OURS, *names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    apart = metadata.distributions(
        name="arq", path=[str(folder) for folder in APART.glob("lib/*/site-packages")]
    )
    return versions | {one.name: one.version for one in apart}


# ------------------------------------------------------------------ numbers


def number(value: float) -> str:
    """Return *value* with three digits that count, and thousands parted."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def tied(text: str) -> str:
    """Return *text* with numbers tied to their units."""
    return _AFTER_NUMBER.sub(_TIED, text)


def amount(row: Row, name: str) -> str:
    """Return the median of one case with its unit."""
    return f"{number(row.samples[name].median)} {row.unit}"


def limit(goal: Goal) -> str:
    """Return the greatest ratio that *goal* allows, on this Python."""
    return f"{goal.limit:.3g}"


_WORDS = {True: "met", False: "not met", None: "not measured"}


def outcome(row: Row, goal: Goal) -> str:
    """Return how *goal* came out, in words."""
    return _WORDS[row.outcome(goal)]


def floor_goal(row: Row) -> Goal | None:
    """Return the goal that is shown beside the ratio to the floor."""
    return next((goal for goal in row.goals if goal.against == row.floor), None)


def tally(rows: Iterable[Row], curves: Iterable[Curve] = ()) -> str:
    """Return in one sentence how many goals are met."""
    results = [row.outcome(goal) for row in rows for goal in row.goals]
    results += [curve.outcome(goal) for curve in curves for goal in curve.flat]
    known = [result for result in results if result is not None]
    missing = f"; {len(results) - len(known)} not measured" if len(known) < len(results) else ""
    return f"{sum(known)} of {len(known)} goals are met{missing}."


# ------------------------------------------------------------------ tables


def overview(rows: Iterable[Row]) -> Table:
    """Return a line for each row: ours beside its floor and the best peer."""
    head = ["what", "ours", "floor", "best peer", "ours / floor", "goal", ""]
    lines = []
    for row in rows:
        goal = floor_goal(row)
        peer = row.best_peer
        lines.append(
            [
                row.title,
                amount(row, OURS),
                f"{amount(row, row.floor)} ({row.floor})",
                f"{amount(row, peer)} ({peer})" if peer else "",
                number(row.ours.ratio),
                f"≤ {limit(goal)}" if goal else "",
                outcome(row, goal) if goal else "",
            ]
        )
    return Table(head, lines)


def versus(rows: Iterable[Row]) -> Table:
    """Return a line for each goal that is held against something else than the floor."""
    head = ["what", "against", "ours / it", "goal", ""]
    lines = [
        [
            row.title,
            goal.against,
            number(row.ratio_to(goal.against)) if goal.against in row.samples else "",
            f"≤ {limit(goal)}",
            outcome(row, goal),
        ]
        for row in rows
        for goal in row.goals
        if goal is not floor_goal(row)
    ]
    return Table(head, lines)


def ranked(row: Row) -> list[str]:
    """Return the names of all cases, the least ratio to the floor first."""
    return sorted(row.samples, key=lambda name: row.samples[name].ratio)


def figures(row: Row) -> Table:
    """Return a line for each case of *row*, with how far its rounds lie apart."""
    lines = []
    for name in ranked(row):
        samples = row.samples[name]
        least, greatest = map(number, samples.spread)
        lines.append(
            [name, amount(row, name), number(samples.ratio), f"{least} to {greatest}"],
        )
    return Table([row.title, "median", f"/ {row.floor}", "range"], lines)


def growth(curve: Curve) -> Table:
    """Return a line for each series of *curve*: how it grows, and how it may."""
    head = [f"{curve.x_label} ({curve.unit})", *map("{:,}".format, curve.xs)]
    lines = []
    for name, values in curve.series.items():
        slope = curve.power(name)
        power = "" if slope is None else f"{slope:z.2f}"
        cells = ["" if value is None else number(value) for value in values]
        goal = next((goal for goal in curve.flat if goal.series == name), None)
        limit = "" if goal is None else f"≤ {goal.at_most:.3g}"
        judged = [limit, "" if goal is None else _WORDS[curve.outcome(goal)]]
        lines.append([name, *cells, power, rises(curve, name, goal), *judged])
    return Table([*head, "power", "rise", "goal", ""], lines)


def rises(curve: Curve, name: str, goal: Flat | None) -> str:
    """Return by how much a series rises, and by how much beside the one it is held against."""
    beside = [""] if goal is None or not goal.beside else ["", goal.beside]
    found = [(other, curve.rise(name, other)) for other in beside]
    return ", ".join(
        number(rise) + (f" beside {other}" if other else "")
        for other, rise in found
        if rise is not None
    )


# ------------------------------------------------------------------ for a terminal


def as_text(run: Run) -> str:
    """Return the whole report as plain text."""
    versions = ", ".join(f"{name} {version}" for name, version in run.place.versions.items())
    parts = [f"{run.place}\n{textwrap.fill(versions, 100)}\n{RATIOS_ONLY}"]
    tables = (overview(run.rows), versus(run.rows))
    parts += [table.as_text() for table in tables if table.lines]
    for curve in run.curves:
        note = f"\n{curve.note}" if curve.note else ""
        parts.append(f"{curve.title}{note}\n{growth(curve).as_text()}")
    if run.rows or run.curves:
        parts.append(tally(run.rows, run.curves))
    if run.raised:
        parts.append(f"These sections raised and may lack rows: {', '.join(run.raised)}.")
    return "\n\n".join(parts)


# ------------------------------------------------------------------ for the page


def picture(key: str, alt: str) -> str:
    """Return what shows the picture *key* in the colours that its reader prefers."""
    return (
        "<picture>\n"
        f'  <source media="(prefers-color-scheme: dark)" srcset="performance/{key}-dark.svg">\n'
        f'  <img src="performance/{key}-light.svg" alt="{alt}">\n'
        "</picture>"
    )


def notes(rows: Iterable[Row]) -> str:
    """Return the notes of *rows* as a list; those with the same one share it."""
    titles: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            titles.setdefault(row.note, []).append(row.title)
    return "\n".join(f"- *{'; '.join(those)}*: {note}" for note, those in titles.items())


def folded(summary: str, parts: Sequence[str]) -> str:
    """Return *parts* such that a reader opens them with a click."""
    body = "\n\n".join(parts)
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def without_goals(table: Table) -> str:
    """Return a table for readers, without its last columns: a goal, and whether it is met."""
    return Table(table.head[:-2], [line[:-2] for line in table.lines]).as_markdown()


def as_markdown(run: Run, *, pictures: bool) -> str:
    """Return the part of the page about this run.

    Args:
        run: What was measured.
        pictures: Whether pictures were drawn of it.
    """
    parts = [f"### Python {run.place.minor}", f"{run.place}."]
    # Goals are for those who work on it, in the report for a terminal.
    parts.append(without_goals(overview(run.rows)))
    for group in run.groups:
        parts.append(f"#### {group.title}")
        if pictures:
            parts.append(picture(group.key, f"{group.title}: ratios to the floor"))
        if any(row.note for row in group.rows):
            parts.append(notes(group.rows))
        tables = [figures(row).as_markdown() for row in group.rows]
        parts.append(folded(f"All figures: {group.title.lower()}", tables))
    if run.curves:
        parts.append("#### Growth")
    for curve in run.curves:
        if pictures:
            parts.append(picture(f"growth-{curve.key}", f"{curve.title}, by {curve.x_label}"))
        parts += [f"{curve.title}. {curve.note}".rstrip(), without_goals(growth(curve))]
    versions = [[name, version] for name, version in run.place.versions.items()]
    parts.append(folded("Versions", [Table(["package", "version"], versions).as_markdown()]))
    return "\n\n".join(parts)


def replaced(page: str, minor: str, part: str) -> str:
    """Return *page* with *part* as what was measured on one Python; others stay.

    Args:
        page: Text of the page, with both markers.
        minor: Version of the Python, such as ``3.11``.
        part: What to put there.

    Raises:
        ValueError: If the page does not have each marker once, in order.
    """
    for marker in (BEGIN, END):
        if page.count(marker) != 1:
            raise ValueError(
                f"the page has {marker!r} {page.count(marker)} times; it must stand there once, "
                f"with {BEGIN!r} before and {END!r} after what was measured"
            )
    before, rest = page.split(BEGIN)
    if END not in rest:
        raise ValueError(f"the page has {END!r} before {BEGIN!r}; swap the two")
    inside, after = rest.split(END)
    found = re.finditer(
        r"<!-- on (\S+): begin -->\n\n(.*?)\n\n<!-- on \1: end -->", inside, re.DOTALL
    )
    parts = {match[1]: match[2] for match in found} | {minor: part}
    blocks = [
        f"<!-- on {version}: begin -->\n\n{parts[version]}\n\n<!-- on {version}: end -->"
        for version in sorted(parts, key=lambda text: [int(digits) for digits in text.split(".")])
    ]
    return "\n\n".join([before + BEGIN, *blocks, END + after])


# ------------------------------------------------------------------ for a file


def as_json(run: Run) -> str:
    """Return every sample of *run*."""
    return json.dumps(dataclasses.asdict(run), indent=1, ensure_ascii=False)


def from_json(text: str) -> Run:
    """Return the run that `as_json` wrote."""

    def row(facts: dict[str, Any]) -> Row:
        samples = {name: Samples(**values) for name, values in facts["samples"].items()}
        goals = [Goal(**goal) for goal in facts["goals"]]
        return Row(**{**facts, "samples": samples, "goals": goals})

    facts = json.loads(text)
    groups = [
        Group(group["key"], group["title"], [row(each) for each in group["rows"]])
        for group in facts["groups"]
    ]
    curves = [
        Curve(**{**curve, "flat": [Flat(**goal) for goal in curve.get("flat", ())]})
        for curve in facts["curves"]
    ]
    return Run(Place(**facts["place"]), groups, curves, facts["raised"], facts["complete"])
