"""Small random programs of coroutines, as data that two interpreters can run.

A program has a few actors, which begin in their order. An actor is a sequence of operations:

- ``("pass",)``: lets others run once; ``("sleep", seconds)``: for some seconds of virtual time.
- ``("set", e)``, ``("clear", e)``, ``("wait", e)``: of an event.
- ``("put", q)``, ``("get", q)``: of a queue without a bound.
- ``("cancel", actor)``: asks another actor, or itself, to end.
- ``("lock", l, operations)``: runs them with a lock.
- ``("timeout", seconds, operations)``: runs them with a time limit.
- ``("shield", operations)``: goes on after the block when it is cancelled in it.

What has happened is a sequence of notes: the actor and the place of an operation in it when that
has ended, and a word at the end where it has ended by a time limit, or was cancelled.
"""

from __future__ import annotations

from random import Random
from typing import Any, TypeAlias

Operation: TypeAlias = tuple[Any, ...]
Program: TypeAlias = tuple[tuple[Operation, ...], ...]
Note: TypeAlias = tuple[Any, ...]

END = 100
"""The second of virtual time at which what still waits is left alone."""

BLOCKS = ("lock", "timeout", "shield")


def drawn(seed: int) -> Program:
    """Return the program of a seed."""
    rng = Random(seed)
    actors = rng.choice((2, 2, 3))
    most = 8 if actors == 2 else 5
    return tuple(_operations(rng, rng.randint(2, most), actors, 2) for _ in range(actors))


def _operations(rng: Random, many: int, actors: int, depth: int) -> tuple[Operation, ...]:
    found = list[Operation]()
    while many > 0:
        kind = rng.choice(KINDS)
        many -= 1
        if kind not in BLOCKS:
            found.append(_simple(rng, kind, actors))
        elif depth and many:
            inner = rng.randint(1, many)
            many -= inner
            block = _operations(rng, inner, actors, depth - 1)
            found.append((kind, *_of_block(rng, kind), block))
    return tuple(found)


def _simple(rng: Random, kind: str, actors: int) -> Operation:
    if kind == "pass":
        return (kind,)
    most = {"sleep": (1, 2), "cancel": range(actors)}.get(kind, (0,))
    return (kind, rng.choice(most))


def _of_block(rng: Random, kind: str) -> tuple[int, ...]:
    if kind == "shield":
        return ()
    return (rng.choice((1, 2)) if kind == "timeout" else 0,)


KINDS = (
    *("pass", "pass", "sleep", "sleep", "set", "set", "wait", "put", "put", "get", "cancel"),
    *("clear", "lock", "lock", "timeout", "timeout", "shield"),
)
