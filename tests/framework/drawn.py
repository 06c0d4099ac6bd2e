"""How properties are explored: how many examples, numbers of seconds, a loop by turns."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

EXAMPLES = 200

explored = settings(max_examples=EXAMPLES)


def seconds(least: float, most: float) -> st.SearchStrategy[float]:
    """Draw a number of seconds."""
    return st.floats(least, most, allow_nan=False, allow_infinity=False)


class Loop:
    """An event loop that turns only as often as a test says."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.close()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin with a coroutine, as far as it goes without time passing."""
        return self.loop.create_task(coroutine)

    def turn(self, times: int) -> None:
        """Make so many turns, none of which waits."""
        for _ in range(times):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
