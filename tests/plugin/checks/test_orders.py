"""Whether an order of operations explains their results, compared with trying all orders."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_asyncframe._histories.orders import Budget, TooManyStatesError, is_explained
from pytest_asyncframe._histories.record import NEVER, Raised, Record, Returned
from pytest_asyncframe._histories.shortest import shortest

pytestmark = pytest.mark.extended("time")

STATES = 100_000


class Register:
    """Keeps one value, and takes values away from a short queue."""

    def __init__(self) -> None:
        self.value = 0
        self.queue: list[int] = []

    def write(self, value: int) -> None:
        """Keep a value."""
        self.value = value

    def read(self) -> int:
        """Return the value."""
        return self.value

    def swap(self, old: int, new: int) -> bool:
        """Keep *new* if the value is *old*; return whether it was."""
        is_old = self.value == old
        self.value = new if is_old else self.value
        return is_old

    def put(self, value: int) -> int:
        """Queue a value; return how many there are."""
        self.queue.append(value)
        return len(self.queue)

    def take(self) -> int:
        """Return the oldest value; an IndexError if there is none."""
        return self.queue.pop(0)


class Locked(Register):
    """The same, with something that cannot be copied or compared."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


SMALL = st.integers(0, 2)

CALLS = st.one_of(
    st.tuples(st.just("write"), st.tuples(SMALL), st.none()),
    st.tuples(st.just("read"), st.just(()), SMALL),
    st.tuples(st.just("swap"), st.tuples(SMALL, SMALL), st.booleans()),
    st.tuples(st.just("put"), st.tuples(SMALL), st.integers(1, 3)),
    st.tuples(st.just("take"), st.just(()), st.one_of(SMALL, st.just(IndexError()))),
)


@st.composite
def histories(draw: st.DrawFn, most: int = 5) -> list[Record]:
    """Draw operations that overlap in any way, some of which never end."""
    calls = draw(st.lists(CALLS, min_size=1, max_size=most))
    moments = draw(st.permutations([*range(len(calls))] * 2))
    records: list[Record] = []
    for index, (name, args, result) in enumerate(calls):
        begun, ended = (number for number, one in enumerate(moments) if one == index)
        outcome = Raised(result) if isinstance(result, Exception) else Returned(result)
        record = Record(name, args, {}, "", begun, returned=ended, outcome=outcome)
        records.append(record.forgotten() if draw(st.integers(0, 5)) == 0 else record)
    return sorted(records, key=lambda one: one.called)


def by_brute_force(records: list[Record]) -> bool:
    """Whether a legal order of all that has ended and some of what has not explains it."""
    open_ones = [one for one in records if one.outcome is None]
    ended = [one for one in records if one.outcome is not None]
    for size in range(len(open_ones) + 1):
        for some in permutations(open_ones, size):
            for order in permutations([*ended, *some]):
                if is_legal(order) and has_these_results(order):
                    return True
    return False


def is_legal(order: tuple[Record, ...]) -> bool:
    """Whether nothing comes before what had ended before it began."""
    return not any(
        later.returned < one.called for n, one in enumerate(order) for later in order[n + 1 :]
    )


def has_these_results(order: tuple[Record, ...]) -> bool:
    """Whether a register gives these results in this order."""
    register = Register()
    for one in order:
        try:
            found: Any = getattr(register, one.name)(*one.args)
        except IndexError as error:
            found = error
        if isinstance(one.outcome, Raised) and not isinstance(found, IndexError):
            return False
        if isinstance(one.outcome, Returned) and one.outcome.value != found:
            return False
    return True


@pytest.mark.parametrize("make", [Register, Locked])
@settings(max_examples=200)
@given(records=histories())
def test_as_brute_force_says(make: Callable[[], Register], records: list[Record]) -> None:
    """The search finds an order exactly if one of all orders explains the results."""
    assert is_explained(records, make, Budget(STATES)) == by_brute_force(records)


def parts(records: list[Record], told: list[Record]) -> Iterator[list[Record]]:
    """Yield the history with what is not told made unknown, and then each one of that too."""
    names = {one.called for one in told}
    until = max(one.returned for one in told)
    cut = [one.cut(until + 1) for one in records if one.called <= until]
    for left_out in (None, *told):
        kept = names - {left_out.called if left_out else NEVER}
        yield [one if one.called in kept else one.forgotten() for one in cut]


@settings(max_examples=200)
@given(records=histories())
def test_what_is_told_is_enough_and_needed(records: list[Record]) -> None:
    """What is told has no order, whatever the others did; and has one without any of it."""
    if is_explained(records, Register, Budget(STATES)):
        return
    told, left_out = shortest(records, Register, STATES)
    whole, *smaller = parts(records, told)

    assert len(told) + left_out == len(records)
    assert not by_brute_force(whole)
    assert all(by_brute_force(part) for part in smaller)


def test_what_was_seen_is_not_tried_twice() -> None:
    """Of eight writes and eight reads at once, 40,320 orders of the writes are refused quickly."""
    writes = [Record("write", (n % 2,), {}, "", n, returned=50 + n) for n in range(8)]
    reads = [Record("read", (), {}, "", 100 + n, returned=150 + n) for n in range(8)]
    for one in (*writes, *reads):
        one.outcome = Returned(1 if one.name == "read" else None)
    wrong = Record("read", (), {}, "", 200, returned=201, outcome=Returned(2))

    assert is_explained([*writes, *reads], Register, Budget(100))
    assert not is_explained([*writes, *reads, wrong], Register, Budget(3_000))
    with pytest.raises(TooManyStatesError, match=r"^$"):
        is_explained([*writes, *reads, wrong], Register, Budget(100))
