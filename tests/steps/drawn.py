"""Drawn programs of the model: nested branches, loops, locks and waits, with few functions.

Half of them have two functions and two arguments, so that the same call is often made in several
branches. All are right: nothing is made anew, unless that is asked for.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from tests.steps.programs import Around, Make
from tests.steps.replays import Acquire, Gather, Outside, Program, Release, Step

Part: TypeAlias = tuple[Any, ...]
"""What a drawn program does: its kind, and what that needs."""

_DEPTH: Final = 2
_SECONDS: Final = (0.5, 1.0, 2.0)


def drawn(seed: int) -> tuple[list[Part], int]:
    """Return what the program of a seed does, and how many steps it calls."""
    rng, identities = random.Random(seed), itertools.count()
    few = bool(seed % 2)
    functions, arguments = ("fg", range(2)) if few else ("fgh", range(50))
    parts = _drawn(rng, _DEPTH, identities, functions, arguments)
    return parts, next(identities)


def _drawn(
    rng: random.Random,
    depth: int,
    identities: Iterator[int],
    functions: Sequence[str],
    arguments: Sequence[int],
) -> list[Part]:
    def step() -> Part:
        return "step", rng.choice(functions), rng.choice(arguments), next(identities)

    found: list[Part] = []
    for _ in range(rng.randint(1, 3)):
        chance = rng.random()
        if chance < 0.5:
            found.append(step())
        elif chance < 0.65:
            found.append(("outside", rng.choice(_SECONDS)))
        elif chance < 0.78:
            found.append(("lock", [step()]))
        elif depth:
            many = rng.randint(2, 3)
            inner = [_drawn(rng, depth - 1, identities, functions, arguments) for _ in range(many)]
            found.append(("gather", inner))
        else:
            found.append(step())
    return found


def program_of(parts: Sequence[Part], anew: int | None = None) -> Make:
    """Return a program, in which the step *anew* gets an argument that each run makes anew."""
    return lambda around: _run(parts, around, anew)


def _run(parts: Sequence[Part], around: Around, anew: int | None) -> Program:
    last: Any = None
    for kind, *facts in parts:
        if kind == "step":
            function, argument, identity = facts
            # Every other step takes what the one before it has returned.
            args = (argument, last) if identity % 2 else (argument,)
            if identity == anew:
                args += (around.anew("uuid"),)
            last = yield Step(function, args, f"s{identity}")
        elif kind == "outside":
            yield Outside(facts[0])
        elif kind == "lock":
            yield Acquire("lock")
            last = yield from _run(facts[0], around, anew)
            yield Release("lock")
        else:
            started = [("branch", at, _run(one, around, anew)) for at, one in enumerate(facts[0])]
            last = repr((yield Gather(started)))
    return last
