"""Running a test in all its variants, in the place of pytest's own protocol for it.

Each run is pytest's own protocol for the test, told that the next test is a copy of it: the
fixtures of function scope are made anew, and wider ones are kept until all runs are done. Users
see one test: the reports of the run that stands for all.

Relies on: `runtestprotocol` of pytest, which is not public.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pytest
from _pytest.runner import runtestprotocol

from pytest_asyncframe._locations import is_users_file
from pytest_asyncframe._modes.marker import VARIANT, Variant, applies, variants_for
from pytest_asyncframe._toolkit.items import LEFT_OUT, PROOF, REFUSED, is_strict_pass
from pytest_asyncframe._toolkit.options import Settings, settings_for
from pytest_asyncframe._toolkit.repeating import (
    SeveralRuns,
    crash_of,
    line_of,
    logged,
    shows_fixtures,
    withheld,
)

SECTION = "task modes"
"""The title of the section of a report, and the name of its property in JUnit's XML."""


def protocol(
    item: pytest.Item,
    next_item: pytest.Item | None,
    settings: Settings,
    asked: Collection[str],
) -> bool | None:
    """Run a test that has the marker; see the hook ``pytest_runtest_protocol``.

    Args:
        item: The test.
        next_item: The test after it; None if it is the last one.
        settings: The settings of the session.
        asked: The fixtures of asyncframe that it requests.

    Returns:
        None if the test is to be run as any other.
    """
    if shows_fixtures(item.config) or not applies(item, asked):
        return None
    try:
        variants = variants_for(item, settings_for(item, settings), asked)
    except pytest.UsageError as error:
        item.stash[REFUSED] = str(error)
        return None
    with logged(item):
        runs = _Runs(item)
        results = [Result(variant, runs.run(variant)) for variant in variants]
        runs.show(_reported(results, item), next_item)
    return True


class _Runs(SeveralRuns):
    """The runs of one test."""

    def run(self, variant: Variant) -> list[pytest.TestReport]:
        """Run the test once; return the reports, of which nobody is told."""
        item = self.item
        with self.prepared(VARIANT, variant), withheld(item, "pytest_runtest_logreport") as told:
            reports = runtestprotocol(item, log=False, nextitem=self.copy)
        # Subtests report during the call.
        return [*told, *reports]


def _reported(results: list[Result], item: pytest.Item) -> list[pytest.TestReport]:
    """Return the reports that users see."""
    chosen = shown(results)
    text = sentence(results)
    for report in chosen.reports:
        if report is chosen.failure:
            report.sections[:0] = [
                (SECTION, "\n".join([text, *failures(results, item)])),
                *other_failures(results),
            ]
            _head(report, text.rpartition("; ")[2])
        if report.when == "call":
            reports = (one for result in results for one in result.reports)
            report.duration = sum(one.duration for one in reports if one.when == "call")
            if report.passed and not hasattr(report, "wasxfail"):
                setattr(report, PROOF, text)
        if report.when == "teardown":
            setattr(report, LEFT_OUT, left_out(results))
        if report.when != "setup":
            report.user_properties.append((SECTION, text))
    return chosen.reports


def _head(report: pytest.TestReport, text: str) -> None:
    """Make pytest's summary say where the test fails."""
    crash = crash_of(report)
    if crash is not None:
        crash.message = f"{text}: {crash.message}"


# -- what the runs have shown


Outcome: TypeAlias = Literal["fails", "fails as expected", "passes", "is skipped"]

_LISTED = 10
"""How many seeds are listed."""

_SHOWN = 3
"""How many different failures are shown in full."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What one run has shown.

    Attributes:
        variant: The variant.
        reports: pytest's reports of its phases, those of subtests included.
    """

    variant: Variant
    reports: list[pytest.TestReport]

    @property
    def failure(self) -> pytest.TestReport | None:
        """The report of the first phase that failed; None if none did."""
        return next((one for one in self.reports if one.failed and not is_strict_pass(one)), None)

    @property
    def outcome(self) -> Outcome:
        """What pytest would say of a test with this run alone."""
        if self.failure is not None:
            return "fails"
        for report in self.reports:
            if report.skipped:
                return "fails as expected" if hasattr(report, "wasxfail") else "is skipped"
        return "passes"


_PRIORITY: tuple[Outcome, ...] = ("fails", "fails as expected", "passes", "is skipped")
_ORDER: tuple[Outcome, ...] = ("passes", "is skipped", "fails as expected", "fails")


def shown(results: Sequence[Result]) -> Result:
    """Return the result that stands for all: the first one with the worst outcome."""
    return min(results, key=lambda one: _PRIORITY.index(one.outcome))


def sentence(results: Sequence[Result]) -> str:
    """Return in which variants the test passes and fails, in one sentence."""
    found = []
    for outcome in _ORDER:
        variants = [one.variant for one in results if one.outcome == outcome]
        if variants:
            found.append(f"{outcome} {_in_which(variants, results)}")
    return "; ".join(found)


def _in_which(variants: Iterable[Variant], results: Sequence[Result]) -> str:
    """Return the names of the variants for which something holds."""
    by_place: dict[tuple[str, ...], list[Variant]] = {}
    for one in variants:
        by_place.setdefault(_place(one), []).append(one)
    texts = []
    for place, those in by_place.items():
        seeds = sum(_place(it.variant) == place and it.variant.seed is not None for it in results)
        names = _names(those, seeds)
        texts.append(" ".join([f"in {_joined(names)}", *place] if names else place))
    return _joined(texts)


def _place(variant: Variant) -> tuple[str, ...]:
    """Return what a variant runs on, and over which transport."""
    on = [f"on {variant.backend}"] if variant.backend else []
    return (*on, *([f"over {variant.transport}"] if variant.transport else []))


def _names(variants: Iterable[Variant], seeds: int) -> list[str]:
    """Return the modes, and how many of all *seeds*."""
    names = list(dict.fromkeys(one.mode_text for one in variants if one.seed is None and one.mode))
    drawn = [one.seed for one in variants if one.seed is not None]
    if seeds == 1:
        names += [f"seeded={seed}" for seed in drawn]
    elif drawn:
        listed = ", ".join(map(str, drawn[:_LISTED])) + (", ..." if len(drawn) > _LISTED else "")
        some = "" if len(drawn) == seeds else f" ({listed})"
        names.append(f"{len(drawn)} of {seeds} seeds{some}")
    return names


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def left_out(results: Sequence[Result]) -> list[list[str]]:
    """Return the back ends on which the test was skipped, each with the reason."""
    skipped = [one for one in results if one.outcome == "is skipped" and one.variant.is_real]
    return [[str(one.variant.backend), _reason(one)] for one in skipped]


def _reason(result: Result) -> str:
    found = [one.longrepr for one in result.reports if one.skipped]
    return str(found[0][-1] if isinstance(found[0], tuple) else found[0]).removeprefix("Skipped: ")


# -- failures


def failures(results: Sequence[Result], item: pytest.Item) -> list[str]:
    """Return lines with each different failure, and how to run a variant with it again."""
    lines = []
    for same in _different(results):
        first = same[0]
        assert first.failure is not None
        variants = _in_which([one.variant for one in same], results)
        lines.append(
            f"fails {variants}: {_first_line(first.failure)}{_location(first.failure, item)}"
        )
        lines.append(f"    {_command(first.variant, item)}")
    return lines


def other_failures(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return titles and texts of the failures that differ from the one that is shown."""
    return [
        (f"failure {_in_which([same[0].variant], results)}", same[0].failure.longreprtext)
        for same in _different(results)[1:_SHOWN]
        if same[0].failure is not None
    ]


def _different(results: Iterable[Result]) -> list[list[Result]]:
    """Return the failing results, those with the same failure together."""
    groups: dict[object, list[Result]] = {}
    for one in results:
        if one.failure is not None:
            key = one.failure.when, line_of(one.failure), _first_line(one.failure)
            groups.setdefault(key, []).append(one)
    return list(groups.values())


def _first_line(report: pytest.TestReport) -> str:
    crash = crash_of(report)
    text = report.longreprtext if crash is None else str(crash.message)
    return text.strip().partition("\n")[0].rstrip(":")


def _location(report: pytest.TestReport, item: pytest.Item) -> str:
    """Return the line of the user's code that failed; "" if unknown."""
    traceback = getattr(report.longrepr, "reprtraceback", None)
    entries = () if traceback is None else traceback.reprentries
    found = [getattr(one, "reprfileloc", None) for one in entries]
    users = [one for one in found if one is not None and is_users_file(str(one.path))]
    where = users[-1] if users else crash_of(report)
    if where is None:
        return ""
    return f", at {str(where.path).removeprefix(str(item.config.rootpath) + os.sep)}:{where.lineno}"


def _command(variant: Variant, item: pytest.Item) -> str:
    words = ["pytest", item.nodeid]
    if variant.mode is not None:
        words.append(f"--asyncframe-modes={variant.mode_text}")
    if variant.transport is not None:
        words.append(f"--asyncframe-transports={variant.transport}")
    if variant.backend is not None:
        words.append(f"--asyncframe-on={variant.backend}")
    return shlex.join(words)
