"""The levels of an exploration: at which locations of a run there are points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, TypeAlias, get_args

import pytest

from pytest_asyncframe._explore.locks.making import controlled
from pytest_asyncframe._explore.points import awaits, framework_calls
from pytest_asyncframe._explore.points.follower import Followed, Follower
from pytest_asyncframe._explore.schedule import Point
from pytest_asyncframe._explore.telling.witness import Witness
from pytest_asyncframe._toolkit.items import code_of
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe._turns.actors import nothing

Level: TypeAlias = Literal["tasks", "awaits", "framework", "locks", "line", "opcode"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""From the fewest points to the most: each one includes those before it."""

_LINES = ("line", "opcode")
"""The levels with points in the user's own code."""


@contextmanager
def claimed(item: pytest.Item, level: Level) -> Iterator[Follower | None]:
    """Prepare what *level* needs for all runs of a test, and undo it after the block.

    Yields:
        What follows the user's code; None if the level has no points in it.

    Raises:
        pytest.UsageError: If another tool has what the level needs.
    """
    if level not in _LINES:
        yield None
        return
    lines = Follower(level, Followed(item.config.rootpath, code_of(item)))
    with lines.claimed():
        yield lines


@contextmanager
def telling(scope: Followed, lines: Follower | None) -> Iterator[Follower | None]:
    """Prepare what a `Witness` needs to see the lines that run, and undo it after the block.

    Args:
        scope: The code whose lines are told.
        lines: What follows the user's code in the runs, if the level has points there.

    Yields:
        What follows it in a run with a witness; None if another tool has what that needs.
    """
    if lines is not None:
        yield lines
        return
    found = Follower("line", scope)
    with ExitStack() as stack:
        try:
            stack.enter_context(found.claimed())
        except pytest.UsageError:
            yield None
        else:
            yield found


@contextmanager
def installed(
    explored: Toolkit,
    level: Level,
    lines: Follower | None = None,
    witness: Witness | None = None,
) -> Iterator[None]:
    """Make the points of *level* inside the block.

    Args:
        explored: The open parts of a test, before its fixtures are made.
        level: The level.
        lines: What `claimed` or `telling` has given.
        witness: Keeps what happens; None if nobody asks for it.
    """
    at_least = LEVELS.index(level)
    with ExitStack() as stack:
        clock = explored.require_clock("interleave")
        clock.sequencer.takes_threads = True
        points = at_least >= LEVELS.index("locks")
        note = explored.recorder.note
        stack.enter_context(controlled(clock.sequencer, note, points=points))
        names = None
        if at_least >= LEVELS.index("awaits"):
            names = stack.enter_context(awaits.installed(clock, explored.blocked.own))
        if at_least >= LEVELS.index("framework"):
            stack.enter_context(framework_calls.installed(clock.sequencer, explored.manager))
        # Elsewhere the lines are followed for the story alone.
        point: Point = clock.sequencer.point if level in _LINES else nothing
        if witness is not None:
            known = None if names is None else names.known
            stack.enter_context(witness.watching(clock.sequencer, known, note))
            stack.callback(explored.manager.subscribe(witness.on_event))
            point = witness.at_lines(point)
        if lines is not None:
            clock.sequencer.on_enter = lines.begin_thread
            met = clock.sequencer.outside.met
            text = "{}, which has used sys.settrace"
            on_other = lines.calling(point, lambda tool: met.setdefault(text.format(tool)))
            stack.enter_context(on_other)
        yield
