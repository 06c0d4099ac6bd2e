"""The levels of an exploration: at which places of a run there are points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, TypeAlias, get_args

import pytest

from pytest_asyncframe._explore import awaits, calls
from pytest_asyncframe._explore.lines import Lines, Scope
from pytest_asyncframe._toolkit.items import code_of
from pytest_asyncframe._toolkit.toolkit import Toolkit

Level: TypeAlias = Literal["tasks", "awaits", "framework", "locks", "line", "opcode"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""From the fewest points to the most: each one includes those before it."""


@contextmanager
def claimed(item: pytest.Item, level: Level) -> Iterator[Lines | None]:
    """Prepare what *level* needs for all runs of a test, and undo it after the block.

    Yields:
        What follows the user's code; None if the level has no points in it.

    Raises:
        pytest.UsageError: If another tool has what the level needs.
    """
    if level not in ("line", "opcode"):
        yield None
        return
    lines = Lines(level, Scope(item.config.rootpath, code_of(item)))
    with lines.claimed():
        yield lines


@contextmanager
def installed(toolkit: Toolkit, level: Level, lines: Lines | None = None) -> Iterator[None]:
    """Make the points of *level* inside the block.

    Args:
        toolkit: The open parts of a test, before its fixtures are made.
        level: The level.
        lines: What `claimed` has given.
    """
    at_least = LEVELS.index(level)
    with ExitStack() as stack:
        clock = toolkit.require_clock("interleave")
        if at_least >= LEVELS.index("awaits"):
            stack.enter_context(awaits.installed(clock))
        if at_least >= LEVELS.index("framework"):
            stack.enter_context(calls.installed(clock.sequencer, toolkit.manager))
        if lines is not None:
            clock.sequencer.on_enter = lines.begin_thread
            stack.enter_context(lines.calling(clock.sequencer.point))
        yield
