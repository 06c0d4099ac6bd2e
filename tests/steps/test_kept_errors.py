"""Errors of steps: the code of the task catches the same ones when it goes on."""

from __future__ import annotations

from decimal import Decimal

from framework import background_task, retry_task
from framework.steps import step
from pytest_asyncframe.probe import Probe

CAUGHT: list[str] = []


class OverdrawnError(Exception):
    """An error with an amount, and with something that only one process has."""

    def __init__(self, amount: Decimal, account: object) -> None:
        super().__init__(f"{amount} too much")
        self.amount, self.account = amount, account


@step
async def overdraw() -> None:
    """Fail with an error whose parts are not all JSON."""
    raise OverdrawnError(Decimal("7.50"), object())


@step
async def overdraw_many() -> None:
    """Fail as a TaskGroup does."""
    raise ExceptionGroup("some", [OverdrawnError(Decimal(1), object()), KeyError((1, 2))])


@background_task(on_restart="resume", name="tests.overdraws")
@retry_task(max_retries=1, retry_delay=1, exceptions=ConnectionError)
async def overdraws() -> str:
    """Catch the errors of its steps, and fail once itself."""
    try:
        await overdraw()
    except OverdrawnError as error:
        CAUGHT.append(f"{error}: {error.amount!r}")
    try:
        await overdraw_many()
    except* OverdrawnError:
        CAUGHT.append("overdrawn")
    except* KeyError as group:
        CAUGHT.append(repr(group.exceptions))
    if len(CAUGHT) == 3:
        raise ConnectionError
    return "balanced"


async def test_the_same_errors_are_caught(asyncframe: Probe) -> None:
    """What a task has caught in its first attempt, the same clauses catch when it goes on."""
    CAUGHT.clear()
    assert await asyncframe.manager.get_result(overdraws()) == "balanced"

    assert CAUGHT[:3] == ["7.50 too much: Decimal('7.50')", "overdrawn", "(KeyError((1, 2)),)"]
    assert CAUGHT[3:] == CAUGHT[:3]
