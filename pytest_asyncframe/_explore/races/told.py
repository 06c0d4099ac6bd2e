"""The races of a run in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pytest_asyncframe._explore.races.pairs import Race
from pytest_asyncframe._explore.races.watching import Done
from pytest_asyncframe._explore.telling.statements import statement_at


def without(races: Sequence[Race], benign: Collection[str]) -> list[Race]:
    """Return the races but those of names that are known to be benign.

    Args:
        races: What was found.
        benign: The names as the report has them, with or without a key in brackets.
    """
    known = set(benign)
    return [one for one in races if not {one.path, _without_key(one.path)} & known]


def _without_key(path: str) -> str:
    return re.sub(r"\[[^\]]*\]$", "", path)


def hint(races: Sequence[Race]) -> str:
    """Return what a pass says of races, in a few words; "" for none."""
    if not races:
        return ""
    one, more = races[0], len(races) - 1
    others = f" and {more} more" if more else ""
    lines = dict.fromkeys(map(_at, (one.first, one.second, one.other)))
    return f"may race: {one.path} at {' and '.join([*lines][:2])}{others}, see races=True"


def told(races: Sequence[Race], root: Path) -> list[str]:
    """Return the lines of a report.

    Args:
        races: What was found.
        root: The root directory.
    """
    return [line for race in races for line in _lines(race, root)]


def _lines(race: Race, root: Path) -> Iterator[str]:
    mine, other = race.first.who, race.other.who
    yield f"a race that may be benign, on {race.path}: {_why(race, mine, other)}"
    yield from _access(race.first, root)
    if race.second is not race.first:
        yield from _access(race.second, root, "then ")
    yield f"  and in between nothing holds back that {other} {_does(race.other)} it:"
    yield from _stack(race.other, root)


def _why(race: Race, mine: str, other: str) -> str:
    if not race.first.writes and race.second.writes:
        return f"what {mine} writes rests on what it has read, which {other} may change or read too"
    if not (race.first.writes or race.second.writes):
        return f"{mine} reads it twice, and {other} may change it in between"
    if race.other.writes:
        return f"{mine} reads what it has written, and {other} may change it in between"
    return f"{other} may find what {mine} has half done"


def _does(done: Done) -> str:
    return "writes" if done.writes else "reads"


def _access(done: Done, root: Path, then: str = "") -> Iterator[str]:
    yield f"  {then}{done.who} {_does(done)} it:"
    yield from _stack(done, root)


def _stack(done: Done, root: Path) -> Iterator[str]:
    for file, line, name in done.stack:
        path = Path(file)
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        yield f"    {shown.as_posix()}:{line} in {name}"
        yield f"      {statement_at(file, line)[1]}"


def _at(done: Done) -> str:
    file, line, _ = done.stack[0]
    return f"{Path(file).name}:{line}"
