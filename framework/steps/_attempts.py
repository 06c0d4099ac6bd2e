"""Attempts: what one that has ended without a result leaves to the next."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from framework._records.steps import StepRecord
from framework.exceptions import StepInterruptedError
from framework.protocols import StepChange


def dropped(
    error: BaseException,
    raised: Collection[tuple[BaseException, StepRecord]],
) -> StepChange | None:
    """Note in the records of steps that their errors have ended an attempt.

    Args:
        error: What has ended it.
        raised: The errors of steps that the program got, with their records.

    Returns:
        What changes in the store; None for nothing.
    """
    causes = {id(one) for one in causes_of(error) if not isinstance(one, StepInterruptedError)}
    ended = [record for one, record in raised if id(one) in causes]
    for record in ended:
        record.state = "ended"
    return StepChange(retires=[one.number for one in ended]) if ended else None


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that have led to it."""
    seen, todo = set[int](), [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
