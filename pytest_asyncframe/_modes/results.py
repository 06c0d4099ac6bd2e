"""What the runs of a test have shown: in which variants it passes, and in which it fails."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pytest

from pytest_asyncframe._locations import is_users_file
from pytest_asyncframe._toolkit.repeating import crash_of, is_strict_pass, line_of
from pytest_asyncframe._toolkit.variants import Variant

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
    by_transport: dict[str | None, list[Variant]] = {}
    for one in variants:
        by_transport.setdefault(one.transport, []).append(one)
    texts = []
    for transport, those in by_transport.items():
        seeds = sum(
            it.variant.transport == transport and it.variant.seed is not None for it in results
        )
        names = _names(those, seeds)
        over = [f"over {transport}"] if transport else []
        texts.append(" ".join([f"in {_joined(names)}", *over] if names else over))
    return _joined(texts)


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
        (f"failure in {same[0].variant}", same[0].failure.longreprtext)
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
    return shlex.join(words)
