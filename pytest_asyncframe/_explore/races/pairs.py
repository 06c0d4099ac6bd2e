"""Which accesses of a run are races: those that another order of threads would make wrong.

Two accesses in no order are none by themselves, since Python does each of them at once. It takes
a third: two of one task, between which another one may come that changes what the first has read,
or sees what is half done.

Source:
    S. Lu, J. Tucek, F. Qin and Y. Zhou, "AVIO: Detecting Atomicity Violations via Access
    Interleaving Invariants", ASPLOS 2006, for which of the three are wrong.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_asyncframe._explore.races.clocks import Times
from pytest_asyncframe._explore.races.effects import Whole, overlap
from pytest_asyncframe._explore.races.watching import Done, Place

_MOST = 20
"""How many races are told of one run."""


@dataclass(frozen=True, slots=True)
class Race:
    """Two accesses of one task, and one of another that nothing keeps from coming in between.

    Attributes:
        first: The first one of the two.
        second: The second one.
        other: The access of the other one.
    """

    first: Done
    second: Done
    other: Done

    @property
    def path(self) -> str:
        """What they read and write."""
        return self.other.path if self.first.part is Whole.ALL else self.first.path


def races_in(places: Mapping[Place, Sequence[Done]]) -> list[Race]:
    """Return the races of a run, one for each name: a cure of it mostly cures the others too."""
    found: dict[str, Race] = {}
    for done in places.values():
        if len({one.actor for one in done}) > 1 and any(one.writes for one in done):
            for race in _in_place(done):
                found.setdefault(race.path, race)
    return list(found.values())[:_MOST]


def _in_place(done: Sequence[Done]) -> Iterator[Race]:
    units: dict[tuple[int, int], list[Done]] = defaultdict(list)
    for one in done:
        units[one.unit].append(one)
    for unit, mine in units.items():
        for other in done:
            if other.actor != unit[0] and _meet(mine, units[other.unit]):
                yield from _around(mine, other)


def _meet(mine: Iterable[Done], others: Iterable[Done]) -> bool:
    """Whether two have met in no order; what one has seen the other do comes after it."""
    return any(
        (one.writes or other.writes)
        and overlap(one.part, other.part)
        and not _is_before(one, other.seen)
        and not _is_before(other, one.seen)
        and are_unordered(one, other)
        for one, other in itertools.product(mine, others)
    )


def _around(mine: Sequence[Done], other: Done) -> Iterator[Race]:
    """Yield what another one may come between."""
    near = [one for one in mine if overlap(one.part, other.part)]
    for one in near:
        if one.twice and _is_wrong(one, one, other) and are_unordered(one, other):
            yield Race(one, one, other)
    for check, second in _checked(near) if other.decides else ():
        if are_unordered(second, other):
            yield Race(check, second, other)
    for first, second in itertools.pairwise(near):
        if not are_unordered(second, other):
            continue
        is_wrong = _is_wrong(first, second, other) and are_unordered(first, other)
        if is_wrong or _is_same_check(first, second, other):
            yield Race(first, second, other)


def _checked(near: Sequence[Done]) -> Iterator[tuple[Done, Done]]:
    """Yield what was read to decide on a write, and the write."""
    check: Done | None = None
    for one in near:
        if one.decides:
            check = one
        elif check is not None and one.writes and not one.checks:
            yield check, one


def _is_before(one: Done, other: Times) -> bool:
    return one.time <= other.get(one.actor, 0)


def are_unordered(one: Done, other: Done) -> bool:
    """Whether no lock and no wait puts one access before the other."""
    return not _is_before(one, other.kept) and not _is_before(other, one.kept)


def _is_same_check(first: Done, second: Done, other: Done) -> bool:
    """Whether another one looks at the same line before it does what is done on what it finds."""
    is_check = second.writes and not (first.writes or second.checks or other.writes)
    return is_check and first.stack[0][:2] == other.stack[0][:2] and first.part == other.part


def _is_wrong(first: Done, second: Done, other: Done) -> bool:
    kinds = "".join("W" if one.writes else "R" for one in (first, other, second))
    if other.part is Whole.ADDED and (first.part is Whole.ADDED or kinds == "RWR"):
        # It makes no difference that there is one more.
        return False
    match kinds:
        case "RWR" if first is second:
            return True
        case "RWR" | "RWW" if other.number < first.number:
            # It has seen the change already, and might have gone another way without it.
            return False
        case "RWR":
            # Who asks again in a loop wants to know of the change.
            return first.stack[0][:2] != second.stack[0][:2]
        case "RWW":
            return not second.checks
        case "WWR":
            return True
        case "WRW":
            # What is empty in between, or half filled. A name has a value at any time.
            return first.part is Whole.ALL
    return False
