"""All outcomes of small random programs, against an interpreter that knows nothing of asyncio."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest

from pytest_asyncframe._explore.points.levels import Level
from tests.explore.oracle import interpreter, on_asyncio, programs
from tests.explore.oracle.programs import SYNCHRONISED, THREAD, Program, drawn
from tests.patience import PATIENCE


class Kind(NamedTuple):
    """A kind of programs, and how they are explored.

    Attributes:
        program: Returns the program of a seed.
        level: The level; "" for the least one at which all that the program does is a point.
        preemptions: How many there may be; None for any number.
        most: How many runs the interpreter may take; programs that need more are passed over.
        few: How many programs are compared each time.
        many: How many are compared in the long test.
        known: Seeds of programs that have shown a bug.
    """

    program: Callable[[int], Program]
    level: Level | None
    preemptions: int | None
    most: int
    few: int
    many: int
    known: tuple[int, ...] = ()


KINDS = {
    "coroutines": Kind(drawn, "awaits", None, 200, 300, 10_000),
    "synchronised": Kind(lambda seed: drawn(seed, SYNCHRONISED), "awaits", None, 200, 50, 2_000),
    "threads": Kind(programs.threads, "awaits", None, 60, 90, 4_000, (32,)),
    "preempted": Kind(programs.threads, "framework", 1, 50, 20, 1_000),
    "locks": Kind(programs.threads, "locks", None, 40, 10, 400),
    "mixed": Kind(programs.mixed, None, None, 60, 40, 4_000, (238, 2101, 4320)),
}

POINTS: dict[Level, frozenset[str]] = {
    "framework": frozenset({"reports", "calls"}),
    "locks": frozenset({"reports", "calls", "locks"}),
}
"""What the interpreter calls the points of a level."""


def differing(kind: Kind, seeds: Iterable[int]) -> tuple[list[int], int]:
    """Return the seeds whose programs have other outcomes than the interpreter says.

    Returns:
        Those seeds, and how many programs were compared.
    """
    wrong, compared = list[int](), 0
    policy = "exhaustive" if kind.preemptions is None else f"exhaustive:{kind.preemptions}"
    for seed in seeds:
        program = kind.program(seed)
        level = kind.level or ("framework" if "'report'" in repr(program) else "awaits")
        points = POINTS.get(level, frozenset())
        expected = interpreter.outcomes(program, kind.most, points, kind.preemptions)
        if expected is not None:
            compared += 1
            found, proof = on_asyncio.outcomes(program, level, policy)
            if found != expected or not proof.startswith(("all", "the only")):
                wrong.append(seed)
    return wrong, compared


@pytest.mark.extended("time")
@pytest.mark.parametrize("name", KINDS)
def test_programs_do_all_that_they_may(name: str) -> None:
    """Exploring shows each outcome that a program may have, no other one, and leaves no thread."""
    kind = KINDS[name]
    before = set(threading.enumerate())
    wrong, compared = differing(kind, [*range(kind.few), *kind.known])
    assert wrong == []
    assert compared > kind.few / 5
    later = [one for one in threading.enumerate() if one not in before]
    for one in later:
        one.join(PATIENCE)
    assert [one for one in later if one.is_alive()] == []


@pytest.mark.extended("time")
def test_as_many_schedules_as_orders() -> None:
    """The page's example has 14 orders, and as many schedules."""
    task = (THREAD, ("report",), ("report",))
    found, proof = on_asyncio.outcomes((task, task), "framework", "exhaustive:2")
    assert len(found) == 14
    assert proof.startswith("all 14 schedules with up to 2 preemptions")


@pytest.mark.soak
@pytest.mark.parametrize("name", KINDS)
def test_many_programs(name: str) -> None:
    """The same for ten thousand programs of coroutines, and as many with threads."""
    kind = KINDS[name]
    wrong, compared = differing(kind, range(1_000, 1_000 + kind.many))
    assert wrong == []
    assert compared > kind.many / 5
