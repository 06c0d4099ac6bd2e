"""Tests under exploration in miniature: actors with atomic steps and shared variables.

An actor is a generator. Its code between two ``yield`` is one atomic step. At a ``yield`` it
stands at a point, where another actor may come first, or it waits; what it yields says which.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from pytest_asyncframe._explore.schedule import Course, Policy, Step, Strategy


class Point(NamedTuple):
    """The actor could go on."""

    kind: str = "line"
    what: str = ""


class Until(NamedTuple):
    """The actor waits until something is true."""

    free: Callable[[], bool]


Body: TypeAlias = Generator["Point | Until", None, None]


@dataclass(slots=True)
class State:
    """What the actors of one run share.

    Attributes:
        start: Starts an actor, by its identity and its body.
        values: The variables.
        failed: Whether the race was hit.
    """

    start: Callable[[str, Callable[[State], Body]], None]
    values: dict[str, Any] = field(default_factory=dict)
    failed: bool = False


class Ran(NamedTuple):
    """How a run went: its choices, and whether it failed."""

    steps: list[Step]
    failed: bool


Model: TypeAlias = Callable[[State], Body]
"""A test in miniature: the body of its first actor, "test", which starts the others."""


def ran(model: Model, strategy: Strategy, *, on_loop: bool = False) -> Ran:
    """Run a model once. A deadlock is a failure too.

    Args:
        model: The model.
        strategy: Makes the choices.
        on_loop: Whether its actors are coroutines of one event loop, and its points awaits.
    """
    run = _Run(model, Course(strategy), on_loop)
    return Ran(run.course.steps, run.fails())


def explored(model: Model, policy: Policy, most: int = 200) -> Iterator[Ran]:
    """Run a model as a policy says, so many times at the most."""
    for _ in range(most):
        strategy = policy.next()
        if strategy is None:
            return
        one = ran(model, strategy)
        policy.ended(one.steps)
        yield one


def first_failure(model: Model, policy: Policy, most: int = 200) -> int | None:
    """Return the number of the first run that fails, from 1; None if none of so many does."""
    runs = enumerate(explored(model, policy, most), start=1)
    return next((number for number, one in runs if one.failed), None)


@dataclass(eq=False, slots=True)
class _Actor:
    identity: str
    body: Body
    free: Callable[[], bool] | None = None

    def can_go_on(self) -> bool:
        return self.free is None or self.free()


class _Run:
    def __init__(self, first: Model, course: Course, on_loop: bool) -> None:
        self.course = course
        self._on_loop = on_loop
        self._state = State(self._start)
        # Both in the order in which they came here.
        self._ready: list[_Actor] = []
        self._blocked: list[_Actor] = []
        self._start("test", first)

    def _start(self, identity: str, body: Callable[[State], Body]) -> None:
        self._ready.append(_Actor(identity, body(self._state)))

    def fails(self) -> bool:
        current: _Actor | None = None
        point = Point("start")
        while True:
            self._sort()
            options = self._ready if current is None else [current, *self._ready]
            if not options:
                return self._state.failed or bool(self._blocked)
            chosen = options[self._choose(point, options, preempts=current is not None)]
            if chosen is not current:
                self._ready.remove(chosen)
                if current is not None:
                    self._ready.append(current)
            point, current = self._step(chosen)

    def _sort(self) -> None:
        actors = self._ready + self._blocked
        able = [actor.can_go_on() for actor in actors]
        self._ready = [actor for actor, can in zip(actors, able, strict=True) if can]
        self._blocked = [actor for actor, can in zip(actors, able, strict=True) if not can]

    def _choose(self, point: Point, options: Sequence[_Actor], *, preempts: bool) -> int:
        if len(options) == 1:
            return 0
        identities = [actor.identity for actor in options]
        return self.course.choose(point.kind, point.what, identities, preempts)

    def _step(self, actor: _Actor) -> tuple[Point, _Actor | None]:
        actor.free = None
        reached = next(actor.body, None)
        if isinstance(reached, Point) and self._on_loop:
            self._ready.append(actor)
            return Point("await"), None
        if isinstance(reached, Point):
            return reached, actor
        if reached is not None:
            actor.free = reached.free
            self._blocked.append(actor)
        return Point("await" if self._on_loop else "start"), None
