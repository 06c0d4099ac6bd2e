"""Steps of several submissions are taken together on a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from framework._threads.waiters import Steps, suspend_all


class Several:
    """Steps that each wait for one future."""

    def __init__(self, count: int) -> None:
        self.futures = [asyncio.get_running_loop().create_future() for _ in range(count)]
        self.log: list[str] = []

    def steps(self, number: int) -> Steps[int]:
        """Wait once, and return the number."""
        self.log.append(f"begin {number}")
        wait: Callable[[], Any] = lambda: self.futures[number]  # noqa: E731  # what Steps yield
        try:
            yield wait
        except GeneratorExit:
            self.log.append(f"closed {number}")
            raise
        if self.futures[number].result() == "fail":
            raise ValueError(f"no {number}")
        return number

    def all(self) -> asyncio.Task[list[int | Exception]]:
        """Take all to their ends, in a task."""
        every = [self.steps(number) for number in range(len(self.futures))]
        return asyncio.ensure_future(suspend_all(every, nullcontext()))


def test_all_begin_before_any_is_waited_for() -> None:
    """All have begun when the first one waits, and the results are in their order."""

    async def main() -> None:
        several = Several(3)
        taken = several.all()
        await asyncio.sleep(0)  # noqa: TID251  # one step of the loop
        assert several.log == ["begin 0", "begin 1", "begin 2"]
        for future in reversed(several.futures):
            future.set_result(None)
        assert await taken == [0, 1, 2]

    asyncio.run(main())


def test_an_error_waits_for_the_others() -> None:
    """Errors stand where results would, once all have ended."""

    async def main() -> None:
        several = Several(3)
        taken = several.all()
        several.futures[0].set_result("fail")
        several.futures[1].set_result("fail")
        for _ in range(3):
            await asyncio.sleep(0)  # noqa: TID251  # steps of the loop
        assert not taken.done()
        several.futures[2].set_result(None)
        assert [str(one) for one in await taken] == ["no 0", "no 1", "2"]
        assert "closed" not in "".join(several.log)

    asyncio.run(main())


def test_a_cancelled_caller_closes_all() -> None:
    """If the caller is cancelled, those that wait are closed, and those that have ended are not."""

    async def main() -> None:
        several = Several(3)
        several.futures[0].set_result(None)
        taken = several.all()
        for _ in range(3):
            await asyncio.sleep(0)  # noqa: TID251  # steps of the loop
        taken.cancel()
        with pytest.raises(asyncio.CancelledError, match=r"^$"):
            await taken
        assert several.log[3:] == ["closed 1", "closed 2"]

    asyncio.run(main())
