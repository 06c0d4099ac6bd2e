"""Whether some order of operations explains their results: linearizability.

A history is explained by an order of its operations in which each one that had ended before
another began comes first, and in which a model that does them one after the other has the same
results. Operations that have not ended may be part of it or not.

Relies on: a model whose results depend on nothing but the operations before.

Source:
    M. Herlihy, J. Wing, "Linearizability: A Correctness Condition for Concurrent Objects", ACM
    Transactions on Programming Languages and Systems 12(3), 1990; J. Wing, C. Gong, "Testing and
    Verifying Concurrent Objects", Journal of Parallel and Distributed Computing 17, 1993, for the
    search; G. Lowe, "Testing for Linearizability", Concurrency and Computation 29(4), 2017, for
    what it does not try twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeAlias

from pytest_asyncframe._histories.record import (
    NEVER,
    Outcome,
    Raised,
    Record,
    Returned,
    objects,
    snapshot,
)
from pytest_asyncframe._histories.states import UnknownStateError, frozen
from pytest_asyncframe._seen.entries import equal

Make: TypeAlias = Callable[[], Any]
"""Makes a model in its first state: an object with a method for each operation."""


class TooManyStatesError(Exception):
    """Raised when a search has not ended after so many states."""


class Budget:
    """How many states a search may still look at.

    Args:
        states: The number.
    """

    def __init__(self, states: int) -> None:
        self.left: int = states

    def spend(self) -> None:
        """Count one more state.

        Raises:
            TooManyStatesError: If there was none left.
        """
        if not self.left:
            raise TooManyStatesError
        self.left -= 1


def outcome_of(model: Any, record: Record) -> Outcome:
    """Do an operation with a model, which may change it, and return how that ends."""
    try:
        method = getattr(model, record.name)
        return Returned(snapshot(method(*snapshot(record.args), **snapshot(dict(record.kwargs)))))
    except Exception as error:  # whatever the model raises is its answer
        return Raised(error)


def agrees(models: Outcome, record: Record) -> bool:
    """Whether an operation may have ended as the model's did, given that it took effect."""
    real = record.outcome
    if real is None:
        return True
    if isinstance(models, Raised):
        return isinstance(real, Raised) and isinstance(real.error, type(models.error))
    return isinstance(real, Returned) and equal(real.value, models.value)


class States:
    """The states of a model after operations, which are done anew when they are asked for.

    So a model need not be copied, and nothing that it does is undone.

    Args:
        records: The operations.
        make: Makes the model.
    """

    def __init__(self, records: Sequence[Record], make: Make) -> None:
        self._records = records
        self._make = make
        arguments = (one for record in records for one in (*record.args, *record.kwargs.values()))
        # Kept alive by the records.
        self._known = frozenset(map(id, objects(arguments)))
        # What is known of states and operations: whether these fit, and the state after them.
        self._moves: dict[tuple[Hashable, int], tuple[bool, Hashable | None]] = {}
        self._model: Any = None
        # What the model has done; None if it is to be made anew.
        self._done: list[int] | None = None

    def step(self, before: Sequence[int], index: int) -> Outcome:
        """Return how operation *index* ends after those of *before*."""
        if self._done != before:
            self._model, self._done = self._make(), None
            for one in before:
                outcome_of(self._model, self._records[one])
        self._done = [*before, index]
        return outcome_of(self._model, self._records[index])

    def value(self) -> Hashable | None:
        """Return the state after the latest step, or the first one; None if it is unknown."""
        if self._done is None:
            self._model, self._done = self._make(), []
        try:
            return frozen(self._model, self._known)
        except UnknownStateError:
            return None

    def move(
        self, before: Sequence[int], index: int, value: Hashable | None, budget: Budget
    ) -> tuple[bool, Hashable | None]:
        """Return whether operation *index* may come next, and the state after it.

        Args:
            before: The operations that come before it.
            index: Its index.
            value: The state that they lead to.
            budget: Bounds how often the model does something.
        """
        move = self._moves.get((value, index))
        if move is None:
            budget.spend()
            outcome = self.step(before, index)
            move = agrees(outcome, self._records[index]), self.value()
            if value is not None:
                self._moves[value, index] = move
                if move[1] == value:
                    self.has_not_changed(before)
        return move

    def is_after(self, done: Sequence[int]) -> bool:
        """Whether the model is in the state after the operations of *done*."""
        return self._done == done

    def has_not_changed(self, before: Sequence[int]) -> None:
        """Say that the model is in the state after the operations of *before*."""
        self._done = [*before]


def is_explained(records: Sequence[Record], make: Make, budget: Budget) -> bool:
    """Whether some order explains the results of operations.

    Args:
        records: The operations, in the order of their beginnings.
        make: Makes the model.
        budget: Bounds the search.

    Raises:
        TooManyStatesError: If the search is not over by then.
    """
    states = States(records, make)
    seen = _Seen(records)
    path: list[int] = []
    done = 0
    values = [states.value()]
    waiting = [next_ones(records, done)]
    while done & seen.wanted != seen.wanted:
        index = next(waiting[-1], None)
        if index is None:
            waiting.pop()
            values.pop()
            if not path:
                return False
            done ^= 1 << path.pop()
            continue
        is_right, value = states.move(path, index, values[-1], budget)
        same = value is not None and value == values[-1]
        # What may be left out, and changes nothing, is left out.
        if not is_right or (same and not records[index].must_be):
            continue
        if seen.before(done | 1 << index, value):
            continue
        budget.spend()
        if same and states.is_after(path):
            states.has_not_changed([*path, index])
        path.append(index)
        done |= 1 << index
        values.append(value)
        waiting.append(next_ones(records, done))
    return True


class _Seen:
    """What a search has tried: which operations were done, and which state that gave.

    Args:
        records: The operations.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.wanted = sum(1 << index for index, one in enumerate(records) if one.must_be)
        self._others: dict[tuple[int, Hashable], list[int]] = {}

    def before(self, done: int, value: Hashable | None) -> bool:
        """Whether the rest was tried from here already; it counts as tried from now on.

        It was, if fewer of those operations were done that may be left out.
        """
        if value is None:
            return False
        others = self._others.setdefault((done & self.wanted, value), [])
        more = done & ~self.wanted
        if any(one & more == one for one in others):
            return True
        others.append(more)
        return False


def next_ones(records: Sequence[Record], done: int) -> Iterator[int]:
    """Return the operations that may come next: they began before any that is left had ended.

    Those that may be left out come last.
    """
    until = NEVER
    found = []
    first = (~done & (done + 1)).bit_length() - 1
    for index in range(first, len(records)):
        # What begins later ends later still.
        if records[index].called > until:
            break
        if not done >> index & 1:
            until = min(until, records[index].returned)
            found.append(index)
    return iter(sorted(found, key=lambda index: not records[index].must_be))
