"""What users read of a history that no order explains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_asyncframe._histories.orders import Make, States, agrees, next_ones
from pytest_asyncframe._histories.record import Outcome, Raised, Record, Returned
from pytest_asyncframe._values import error_text, shown

_MOST_OPERATIONS = 24
"""How many operations are drawn."""

_MOST_ORDERS = 4
"""How many orders are told."""

_MOST_LOOKED_AT = 200
"""After how many steps no further orders are looked for."""


def told(records: Sequence[Record], left_out: int, name: str, make: Make) -> str:
    """Return the text for operations that no order explains.

    Args:
        records: The operations, in the order of their beginnings.
        left_out: How many others there were.
        name: The name of the model.
        make: Makes the model.
    """
    which = "these operations explains their results"
    if len(records) == 1:
        which = "the operations explains the result of this one"
    lines = [f"not linearizable: by the model {name}, no order of {which}:", *drawn(records)]
    lines += _orders(records, make)
    if left_out:
        others = "1 other operation explains"
        if left_out > 1:
            others = f"{left_out} other operations explain"
        lines.append(f"{others} nothing, and may have taken effect or not")
    return "\n".join(lines)


def drawn(records: Sequence[Record]) -> list[str]:
    """Return a line for each operation: what it did, who and when, and how they overlap."""
    numbers = sorted({number for one in records for number in (one.called, one.returned)})
    column = {number: 2 * index for index, number in enumerate(numbers)}
    rows = [
        (str(n), called(one), _ended(one), one.who, _when(one), _bar(one, column))
        for n, one in enumerate(records, 1)
    ]
    more = len(rows) - _MOST_OPERATIONS
    rows = rows if more <= 0 else rows[:_MOST_OPERATIONS]
    widths = [max(len(row[index]) for row in rows) for index in range(6)]
    lines = [
        "".join(f"  {text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return lines if more <= 0 else [*lines, f"  ... and {more} more"]


def _bar(record: Record, column: dict[float, int]) -> str:
    begun, ended = column[record.called], column[record.returned]
    return " " * begun + "|" + "-" * (ended - begun - 1) + ("|" if record.must_be else "...")


def called(record: Record) -> str:
    """Return an operation as it was called."""
    given = [*map(shown, record.args)]
    given += [f"{name}={shown(value)}" for name, value in record.kwargs.items()]
    return f"{record.name}({', '.join(given)})"


def _ended(record: Record) -> str:
    if record.outcome is None:
        return "has not ended"
    text = _outcome(record.outcome, "returned", "raised")
    is_missing = isinstance(record.outcome, Returned) and not record.outcome.given
    return f"{text} (no result was set)" if is_missing else text


def _outcome(outcome: Outcome, returns: str, raises: str) -> str:
    if isinstance(outcome, Raised):
        return f"{raises} {error_text(outcome.error)}"
    return f"{returns} {shown(outcome.value)}"


def _when(record: Record) -> str:
    begun = _seconds(record.called_at)
    if not record.must_be or record.returned_at == record.called_at:
        return f"at {begun}"
    return f"{begun} to {_seconds(record.returned_at)}"


def _seconds(seconds: float) -> str:
    return f"{round(seconds, 6):.9g} s"


def _orders(records: Sequence[Record], make: Make) -> list[str]:
    """Return where orders fail, a line each."""
    lines: list[str] = []
    for order, index, models in _dead_ends(records, make):
        if len(lines) == _MOST_ORDERS:
            return [*lines, "and so on"]
        one = records[index]
        before = " and then ".join(str(number + 1) for number in order)
        answer = f"{called(one)} {_outcome(models, 'returns', 'raises')}"
        lines.append(f"in the model, {f'after {before}, ' if before else ''}{answer}")
    return lines


def _dead_ends(
    records: Sequence[Record], make: Make
) -> Iterator[tuple[tuple[int, ...], int, Outcome]]:
    """Yield orders up to the operation at which they fail, and how it ends in the model."""
    states = States(records, make)
    waiting: list[tuple[int, ...]] = [()]
    for _ in range(_MOST_LOOKED_AT):
        if not waiting:
            return
        order = waiting.pop(0)
        done = sum(1 << index for index in order)
        for index in next_ones(records, done):
            models = states.step(list(order), index)
            if agrees(models, records[index]):
                waiting.append((*order, index))
            else:
                yield order, index, models
