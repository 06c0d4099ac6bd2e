"""The levels of an exploration: at which locations of a run there are points."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeAlias, get_args

import pytest

from framework import Task, TaskManager
from framework.protocols import TaskEvent
from pytest_asyncframe._explore.edges import Edges
from pytest_asyncframe._explore.locks.making import controlled
from pytest_asyncframe._explore.points import awaits, messages
from pytest_asyncframe._explore.points.calls import Calls
from pytest_asyncframe._explore.points.faults import FaultChoices
from pytest_asyncframe._explore.points.follower import Followed, Follower, followed_of
from pytest_asyncframe._explore.races.watching import Watch
from pytest_asyncframe._explore.schedule import Point
from pytest_asyncframe._explore.telling.witness import Witness
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe._turns.actors import nothing
from pytest_asyncframe._turns.hearing import ENDED
from pytest_asyncframe._turns.sequencer import Sequencer

Level: TypeAlias = Literal["tasks", "awaits", "framework", "locks", "line", "opcode"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""From the fewest points to the most: each one includes those before it."""

_LINES = ("line", "opcode")
"""The levels with points in the user's own code."""


_CALLS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (
        TaskManager,
        (
            *("get_result", "wait_result", "cancel_task", "get_task"),
            *("get_all_tasks", "get_active_tasks", "get_tasks_by_status", "get_active_count"),
            *("get_stats", "cleanup_completed_tasks"),
        ),
    ),
    (Task, ("report_progress", "check_cancelled", "to_dict")),
)
"""The calls that read or change what other tasks see."""


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
    lines = Follower(level, followed_of(item))
    with lines.claimed():
        yield lines


@contextmanager
def telling(scope: Followed, level: Level, lines: Follower | None) -> Iterator[Follower | None]:
    """Prepare what a `Witness` needs to see the lines that run, and undo it after the block.

    Args:
        scope: The code whose lines are told.
        level: The level of the runs.
        lines: What follows the user's code in the runs, if the level has points there.

    Yields:
        What follows it in a run with a witness; None if another tool has what that needs.
    """
    with ExitStack() as stack:
        if lines is not None:
            # Two at once would follow the same code.
            lines.free()
            stack.callback(lines.claim)
        told = Follower(level if level in _LINES else "line", scope)
        try:
            stack.enter_context(told.claimed())
        except pytest.UsageError:
            yield None
        else:
            yield told


@contextmanager
def installed(
    explored: Toolkit,
    level: Level,
    lines: Follower | None = None,
    witness: Witness | None = None,
    calls: Calls | None = None,
    *,
    edges: Edges,
    faults: bool = False,
    watch: Watch | None = None,
) -> Iterator[None]:
    """Make the points of *level* inside the block.

    Args:
        explored: The open parts of a test, before its fixtures are made.
        level: The level.
        lines: What `claimed` or `telling` has given.
        witness: Keeps what happens; None if nobody asks for it.
        calls: Watches calls, for the levels from ``framework`` on; None if nothing does.
        edges: The points at the start and the end of tasks, from there on too.
        faults: Whether faults are choices too.
        watch: Keeps what the lines read and write; None if nobody asks for it.
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
            names = stack.enter_context(
                awaits.installed(clock, lambda: explored.manager, explored.blocked.own)
            )
            stack.enter_context(messages.installed())
        if at_least >= LEVELS.index("framework"):
            stack.enter_context(edges.watching(explored))
            stack.enter_context(_framework_calls(clock.sequencer, explored, edges))
        else:
            calls = None
        if faults:
            known = None if names is None else names.known
            pauses = at_least >= LEVELS.index("framework")
            explored.search_faults(FaultChoices(clock.sequencer, known, pauses=pauses))
        # Elsewhere the lines are followed for the story alone.
        point: Point = clock.sequencer.point if level in _LINES else nothing
        if watch is not None:
            point = stack.enter_context(watch.watching(clock.sequencer, point))
        if level in _LINES and lines is not None and not lines.sharing.is_known:
            point = stack.enter_context(lines.sharing.learning(clock.sequencer, point))
        if witness is not None:
            known = None if names is None else names.known
            stack.enter_context(witness.watching(clock.sequencer, known, note))
            stack.callback(explored.sinks.add(witness.on_event))
            point = witness.at_lines(point)
        met = clock.sequencer.outside.met
        watched = []
        if lines is not None:
            text = "{}, which has used sys.settrace"
            on_other = lines.calling(point, lambda tool: met.setdefault(text.format(tool)))
            stack.enter_context(on_other)
            watched.append(lines.begin_thread)
        if calls is not None:
            words = "{}, which has used sys.setprofile"
            on_profiler = calls.calling(
                clock.sequencer, lambda tool: met.setdefault(words.format(tool))
            )
            stack.enter_context(on_profiler)
            watched.append(calls.begin_thread)
        clock.sequencer.on_enter = lambda: [begin() for begin in watched]
        # What is installed here is no look of the user.
        edges.begin()
        yield


@contextmanager
def _framework_calls(sequencer: Sequencer, explored: Toolkit, edges: Edges) -> Iterator[None]:
    """Make calls and events of managers and starts of threads points, and *edges* if they are any.

    Events are published without a lock of the framework.
    """

    def on_start(what: str) -> None:
        sequencer.point("framework", f"what follows {what}")

    def on_event(event: TaskEvent) -> None:
        # The call that reports progress is a point already.
        if event.kind != "progress":
            # The call that has caused it has not returned. A timeout may come early at any rate.
            if_late = not edges.is_point(event)
            sequencer.point("framework", event.kind, returned=False, if_late=if_late)

    with pytest.MonkeyPatch.context() as patch:
        for owner, names in _CALLS:
            for name in names:
                patch.setattr(owner, name, _with_point(sequencer, getattr(owner, name)))
        unsubscribe = explored.sinks.add(on_event)
        sequencer.on_start = on_start
        try:
            yield
        finally:
            sequencer.on_start = None
            unsubscribe()


def _with_point(sequencer: Sequencer, real: Callable[..., Any]) -> Callable[..., Any]:
    """Return *real* with a point before it."""
    what = f"{real.__name__}()"
    if inspect.iscoroutinefunction(real):

        @functools.wraps(real)
        async def async_inner(*args: Any, **kwargs: Any) -> Any:
            sequencer.point("framework", what)
            result = await real(*args, **kwargs)
            sequencer.listeners.acquired(ENDED)
            return result

        return async_inner

    @functools.wraps(real)
    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        sequencer.point("framework", what)
        result = real(*args, **kwargs)
        sequencer.listeners.acquired(ENDED)
        return result

    return sync_inner
