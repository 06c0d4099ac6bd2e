"""Small random programs of coroutines, as data that two interpreters can run.

A program has a few actors, which begin in their order. An actor is a sequence of operations:

- ``("pass",)``: lets others run once; ``("sleep", seconds)``: for some seconds of virtual time.
- ``("set", e)``, ``("clear", e)``, ``("wait", e)``: of an event.
- ``("put", q)``, ``("get", q)``: of a queue without a bound.
- ``("cancel", actor)``: asks another actor, or itself, to end.
- ``("lock", l, operations)``: runs them with a lock.
- ``("timeout", seconds, operations)``: runs them with a time limit.
- ``("shield", operations)``: goes on after the block when it is cancelled in it.
- ``("await",)``, ``("notify", many)``: of a condition. ``("limit", operations)``: runs them with a
  semaphore of one.

An actor that begins with ``("thread",)`` is a thread of the framework's pool. What it waits for may
have a time limit in seconds, or None.

- ``("report",)``: reports progress. ``("sleep", seconds)``.
- ``("lock", seconds, operations)``, ``("rlock", operations)``: runs them with a lock.
- ``("await", seconds)``, ``("notify", many)``: of a condition.
- ``("tset",)``, ``("tclear",)``, ``("twait", seconds)``: of an event of `threading`.
- ``("acquire", seconds)``, ``("release",)``: of a semaphore that begins with one.
- ``("tput", seconds)``, ``("tget", seconds)``: of a queue with room for one.
- ``("meet", seconds)``: at a barrier for two.
- ``("call", operation)``: lets the loop make an operation of a coroutine that does not wait.

Coroutines use ``tset`` and ``tclear`` too, and wait for threads:

- ``("result", actor)``: for the end of a thread of the pool.
- ``("to_thread", operations)``: runs them in a thread of its own.

What has happened is a sequence of notes: the actor and the place of an operation in it when that
has ended, and a word at the end where it has ended by a time limit, or was cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, TypeAlias

Operation: TypeAlias = tuple[Any, ...]
Program: TypeAlias = tuple[tuple[Operation, ...], ...]
Note: TypeAlias = tuple[Any, ...]

END = 100
"""The second of virtual time at which what still waits is left alone."""

BLOCKS = ("lock", "timeout", "shield", "limit")

THREAD: Operation = ("thread",)
"""What threads begin with."""


def drawn(seed: int, kinds: Sequence[str] = ()) -> Program:
    """Return the program of a seed that has coroutines alone."""
    rng = Random(seed)
    actors = rng.choice((2, 2, 3))
    most = 8 if actors == 2 else 5
    return tuple(
        _operations(rng, rng.randint(2, most), actors, 2, kinds or KINDS) for _ in range(actors)
    )


def is_thread(operations: Sequence[Operation]) -> bool:
    """Whether an actor is a thread."""
    return operations[:1] == (THREAD,)


def threads(seed: int) -> Program:
    """Return the program of a seed that has threads alone."""
    rng = Random(seed)
    actors = rng.choice((2, 2, 3))
    kinds = (*rng.sample(THREADS, 4), "report")
    most = 5 if actors == 2 else 3
    return tuple(_thread(rng, rng.randint(2, most), kinds) for _ in range(actors))


def mixed(seed: int) -> Program:
    """Return the program of a seed that has a thread and coroutines."""
    rng = Random(seed)
    kinds = (*(kind for kind in THREADS if kind[0] == "t"), "call", "call", "sleep", "report")
    thread = _thread(rng, rng.randint(1, 3), kinds)
    coroutines = rng.choice((1, 1, 2))
    most = 5 if coroutines == 1 else 2
    return (
        *(_operations(rng, rng.randint(2, most), coroutines, 2, MIXED) for _ in range(coroutines)),
        thread,
    )


def _thread(rng: Random, many: int, kinds: Sequence[str]) -> tuple[Operation, ...]:
    return (THREAD, *_of_thread(rng, many, kinds, 2))


def _of_thread(rng: Random, many: int, kinds: Sequence[str], depth: int) -> tuple[Operation, ...]:
    found = list[Operation]()
    while many > 0:
        kind = rng.choice(kinds)
        many -= 1
        if kind in ("lock", "rlock"):
            if depth and many:
                inner = rng.randint(1, many)
                many -= inner
                block = _of_thread(rng, inner, kinds, depth - 1)
                # A lock that is not for its holder is not taken twice.
                kept = block if kind == "rlock" else _without(block, "lock")
                found.append(("rlock", kept) if kind == "rlock" else (kind, _limit(rng), kept))
        elif kind in ("report", "tset", "tclear", "release"):
            found.append((kind,))
        elif kind in ("sleep", "notify"):
            found.append((kind, rng.choice((1, 2))))
        elif kind == "call":
            found.append((kind, rng.choice((("set", 0), ("put", 0), ("cancel", 0)))))
        else:
            found.append((kind, _limit(rng)))
    return tuple(found)


def _limit(rng: Random) -> int | None:
    return rng.choice((None, 1, 1, 2))


def _without(operations: Sequence[Operation], kind: str) -> tuple[Operation, ...]:
    return tuple(
        (*one[:-1], _without(one[-1], kind)) if isinstance(one[-1], tuple) else one
        for one in operations
        if one[0] != kind
    )


def _operations(
    rng: Random, many: int, actors: int, depth: int, kinds: Sequence[str]
) -> tuple[Operation, ...]:
    found = list[Operation]()
    while many > 0:
        kind = rng.choice(kinds)
        many -= 1
        if kind not in BLOCKS:
            found.append(_simple(rng, kind, actors))
        elif depth and many:
            inner = rng.randint(1, many)
            many -= inner
            block = _operations(rng, inner, actors, depth - 1, kinds)
            found.append((kind, *_of_block(rng, kind), block))
    return tuple(found)


def _simple(rng: Random, kind: str, actors: int) -> Operation:
    if kind in ("pass", "await", "tset", "tclear"):
        return (kind,)
    if kind == "to_thread":
        return (kind, _of_thread(rng, rng.randint(1, 2), ("tset", "twait", "sleep"), 0))
    most = {"sleep": (1, 2), "notify": (1, 2), "cancel": range(actors), "result": (actors,)}.get(
        kind, (0,)
    )
    return (kind, rng.choice(most))


def _of_block(rng: Random, kind: str) -> tuple[int, ...]:
    if kind in ("shield", "limit"):
        return ()
    return (rng.choice((1, 2)) if kind == "timeout" else 0,)


KINDS = (
    *("pass", "pass", "sleep", "sleep", "set", "set", "wait", "put", "put", "get", "cancel"),
    *("clear", "lock", "lock", "timeout", "timeout", "shield"),
)
"""What coroutines do that are alone."""

SYNCHRONISED = (*KINDS, "await", "await", "await", "notify", "notify", "notify", "limit", "limit")
"""The same with a condition and a semaphore."""

MIXED = (
    *("pass", "sleep", "set", "wait", "wait", "get", "get", "tset", "tclear", "result", "result"),
    *("to_thread", "to_thread", "timeout", "timeout", "shield"),
)
"""What coroutines do that have threads beside them."""

THREADS = (
    *("sleep", "lock", "rlock", "await", "notify", "tset", "tclear", "twait", "acquire", "release"),
    *("tput", "tget", "meet"),
)
"""What threads do."""
