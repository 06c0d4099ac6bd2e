"""The part of a history that no order explains, as small as it could be made.

First the operations that came too late are left out: those that began after the earliest end
at which no order explains the history. Then others are, one after the other. That they were
left out must not be why nothing explains the rest: what a read has seen needs the write. So an
operation is left out only if the rest has no explanation whether it took effect or not, and
whatever its result was.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pytest_asyncframe._histories.orders import (
    Budget,
    Make,
    States,
    TooManyStatesError,
    is_explained,
)
from pytest_asyncframe._histories.record import Record

_MOST_STATES = 1_000
"""How many states an attempt to leave some out may look at, besides a few for each operation."""


def shortest(records: Sequence[Record], make: Make, states: int) -> tuple[list[Record], int]:
    """Return the smallest part that was found, and how many operations were left out.

    Args:
        records: Operations that no order explains, in the order of their beginnings.
        make: Makes the model.
        states: How many states all attempts to leave some out may look at together.
    """
    kept = _first_part(records, make, states)
    needed = {index for index, one in enumerate(kept) if one.must_be}
    budget = Budget(states)
    looking = _looking(kept, make)
    # Those that only look first, since what they saw is told by what was written; and of both
    # the later ones.
    _leave_out(sorted(needed & looking, reverse=True), needed, kept, make, budget)
    _leave_out(sorted(needed - looking, reverse=True), needed, kept, make, budget)
    return [kept[index] for index in sorted(needed)], len(records) - len(needed)


def _leave_out(
    order: Sequence[int], needed: set[int], kept: Sequence[Record], make: Make, budget: Budget
) -> None:
    """Remove from *needed* what can be left out of *order*: large parts, then ever smaller ones."""
    size = len(order)
    while size and budget.left:
        for start in range(0, len(order), size):
            fewer = needed.difference(order[start : start + size])
            rest = [one if n in fewer else one.forgotten() for n, one in enumerate(kept)]
            if fewer and len(fewer) < len(needed) and not _may_be_explained(rest, make, budget):
                needed &= fewer
        size //= 2


def _looking(records: Sequence[Record], make: Make) -> set[int]:
    """Return the operations that change nothing in the model, in the order of their beginnings."""
    models = States(records, make)
    values = [models.value()]
    for index in range(len(records)):
        models.step([*range(index)], index)
        values.append(models.value())
    pairs = enumerate(pairwise(values))
    return {index for index, (one, other) in pairs if one is not None and one == other}


def _first_part(records: Sequence[Record], make: Make, states: int) -> list[Record]:
    """Return the shortest beginning that no order explains."""
    ends = sorted(one.returned for one in records if one.must_be)
    few, enough = 0, len(ends)
    # With a longer beginning there is no more to explain it.
    while enough - few > 1:
        middle = (enough + few) // 2
        if _may_be_explained(_until(records, ends[middle - 1]), make, Budget(states)):
            few = middle
        else:
            enough = middle
    return _until(records, ends[enough - 1])


def _until(records: Sequence[Record], end: float) -> list[Record]:
    """Return the operations that had begun at an end, as they were then."""
    return [one.cut(end + 1) for one in records if one.called <= end]


def _may_be_explained(records: Sequence[Record], make: Make, budget: Budget) -> bool:
    """Whether an order explains the operations, or may: it would take too long to find out."""
    part = Budget(min(budget.left, _MOST_STATES + 4 * len(records)))
    allowed = part.left
    try:
        return is_explained(records, make, part)
    except TooManyStatesError:
        return True
    finally:
        budget.left -= allowed - part.left
