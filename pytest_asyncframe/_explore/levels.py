"""The levels of an exploration: at which places of a run there are points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, TypeAlias, get_args

from pytest_asyncframe._explore import awaits, calls
from pytest_asyncframe._toolkit.toolkit import Toolkit

Level: TypeAlias = Literal["tasks", "awaits", "framework", "locks", "line", "opcode"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""From the fewest points to the most: each one includes those before it."""


@contextmanager
def installed(toolkit: Toolkit, level: Level) -> Iterator[None]:
    """Make the points of *level* inside the block.

    Args:
        toolkit: The open parts of a test, before its fixtures are made.
        level: The level.
    """
    at_least = LEVELS.index(level)
    with ExitStack() as stack:
        clock = toolkit.require_clock("interleave")
        if at_least >= LEVELS.index("awaits"):
            stack.enter_context(awaits.installed(clock))
        if at_least >= LEVELS.index("framework"):
            stack.enter_context(calls.installed(clock.sequencer, toolkit.manager))
        yield
