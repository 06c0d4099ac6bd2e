"""One run of a body with chosen steps, without pytest around it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from pathlib import Path

from pytest_asyncframe._explore.edges import Edges
from pytest_asyncframe._explore.points import levels
from pytest_asyncframe._explore.points.calls import Calls
from pytest_asyncframe._explore.points.follower import Followed, Follower
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.races.watching import Done, Place, Watch
from pytest_asyncframe._explore.schedule import Course, Default, Step, Strategy
from pytest_asyncframe._explore.telling.entries import Entry
from pytest_asyncframe._explore.telling.witness import Witness
from pytest_asyncframe._toolkit.options import Settings
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe._turns.choices import Chooser
from pytest_asyncframe.probe import Probe


class Wanted:
    """Takes the wanted option wherever it is one, and the default elsewhere.

    Args:
        wanted: The identities to take, in order; each one is waited for.
    """

    def __init__(self, *wanted: str) -> None:
        self.left = list(wanted)

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        if self.left and self.left[0] in step.options:
            return step.options.index(self.left.pop(0))
        return 0


class At:
    """Takes an option at one kind of point, the first time that it can, and else the default.

    Args:
        what: What the actor at the point is about to do.
        identity: The option to take.
    """

    def __init__(self, what: str, identity: str) -> None:
        self.what = what
        self.identity = identity
        self.taken = False

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        if self.taken or step.what != self.what or self.identity not in step.options:
            return 0
        self.taken = True
        return step.options.index(self.identity)


class Nth:
    """Takes an option where it is offered for the nth time, and else the default.

    Args:
        number: How often it is passed over before.
        identity: The option to take.
    """

    def __init__(self, number: int, identity: str) -> None:
        self.left = number
        self.identity = identity

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        if self.identity not in step.options:
            return 0
        self.left -= 1
        return step.options.index(self.identity) if self.left == -1 else 0


class _Run:
    """See `pytest_asyncframe._toolkit.toolkit.Exploration`."""

    seed = 0
    process = None
    start = datetime(2030, 1, 1, tzinfo=UTC)

    def __init__(
        self,
        chooser: Chooser,
        level: Level,
        lines: Follower | None,
        witness: Witness | None = None,
        calls: Calls | None = None,
        watch: Watch | None = None,
        edges: Edges | None = None,
    ) -> None:
        self.chooser = chooser
        self._watch = watch
        self._witness = witness
        self._level = level
        self._lines = lines
        self._calls = calls
        self._edges = edges or Edges(are_points=True)
        self._numbers = itertools.count(1)

    def new_id(self) -> str:
        """Return the id of the next task."""
        return f"task-{next(self._numbers)}"

    def installed(self, explored: Toolkit) -> AbstractContextManager[object]:
        """Install the points of the level."""
        watched = self._lines, self._witness, self._calls
        return levels.installed(
            explored, self._level, *watched, edges=self._edges, watch=self._watch
        )


def one_run(
    body: Callable[[Probe], object],
    strategy: Strategy,
    level: Level = "framework",
    lines: Follower | None = None,
    calls: Calls | None = None,
    edges: Edges | None = None,
) -> Sequence[Step]:
    """Run *body* with a probe of its own; return the steps that were taken.

    Args:
        body: What a test would do.
        strategy: Takes the steps.
        level: Where the points are.
        lines: What follows the user's code, for the levels of lines and bytecodes.
        calls: What watches calls; None if nothing does.
        edges: The points at the start and the end of tasks; None if they are points.
    """
    course = Course(strategy)
    _run(body, _Run(course, level, lines, calls=calls, edges=edges))
    return course.steps


def told_run(
    body: Callable[[Probe], object], strategy: Strategy, root: Path, level: Level = "framework"
) -> Sequence[Entry]:
    """Run *body* with a probe of its own; return what has happened.

    Args:
        body: What a test would do.
        strategy: Takes the steps.
        root: The folder whose code is followed.
        level: Where the points are.
    """
    scope = Followed(root, [body.__code__])
    witness = Witness(Course(strategy), scope.file_of, scope.is_own)
    lines = Follower(level, scope) if level in ("line", "opcode") else None
    with ExitStack() as stack:
        if lines is not None:
            stack.enter_context(lines.claimed())
        follower = stack.enter_context(levels.telling(scope, level, lines))
        _run(body, _Run(witness, level, follower, witness))
    return witness.entries


def watched_run(
    body: Callable[[Probe], object], root: Path, packages: Sequence[Path] = ()
) -> Mapping[Place, Sequence[Done]]:
    """Run *body* with a probe of its own; return who has read and written what.

    Args:
        body: What a test would do.
        root: The folder whose code is followed.
        packages: Folders and files elsewhere that are followed too.
    """
    scope = Followed(root, [body.__code__], packages)
    watch, lines = Watch(scope.file_of), Follower("line", scope)
    with lines.claimed():
        _run(body, _Run(Course(Default()), "framework", lines, watch=watch))
    return watch.places


def _run(body: Callable[[Probe], object], run: _Run) -> None:
    toolkit = Toolkit(Settings(), {"asyncframe"}, run)
    toolkit.open()
    try:
        body(Probe(toolkit))
    finally:
        toolkit.close()
