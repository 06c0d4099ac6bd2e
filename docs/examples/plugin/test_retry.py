"""A task that is retried, and tests for its attempts and delays."""

from __future__ import annotations

import pytest

from framework import background_task, retry_task
from pytest_asyncframe.probe import Probe


def pay(order: int) -> str:
    """Ask the bank; the tests replace this."""
    raise ConnectionError(f"no bank for order {order}")


@background_task
@retry_task(max_retries=3, retry_delay=10, backoff=2, exceptions=(ConnectionError,))
def charge(order: int) -> str:
    """Try up to four times while the bank is not available."""
    return pay(order)


def test_it_gives_up(asyncframe: Probe) -> None:
    """After delays of 10, 20 and 40 seconds the task fails with the last error."""
    task_id = charge(7)

    with pytest.raises(ConnectionError, match=r"^no bank for order 7$"):
        asyncframe.run_until_complete(task_id)
    assert asyncframe.delays(charge) == [10.0, 20.0, 40.0]


def test_the_bank_comes_back(asyncframe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third attempt succeeds, half a minute after the first."""
    answers = [ConnectionError(), ConnectionError(), "paid"]

    def pay_at_last(order: int) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(f"{__name__}.pay", pay_at_last)
    task = asyncframe.run_until_complete(charge(7))

    assert (task.result, task.attempts) == ("paid", 3)
    assert asyncframe.clock.monotonic() == 30


def test_what_is_not_worth_another_attempt(
    asyncframe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is not in *exceptions* ends the task immediately."""

    def refuse(order: int) -> str:
        raise PermissionError("no money")

    monkeypatch.setattr(f"{__name__}.pay", refuse)
    asyncframe.expect_failure(charge, PermissionError)
    charge(7)
    asyncframe.run_until_idle()

    assert asyncframe.delays(charge) == []
