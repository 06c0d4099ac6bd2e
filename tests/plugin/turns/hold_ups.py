"""Threads that are held up at random, as an operating system under load does."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from pytest_asyncframe._turns.actors import Actor
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._loop import VirtualLoop, _ParkingSelector

_PLACES: list[tuple[type, str]] = [
    (Actor, "wait_for_kick"),
    (_ParkingSelector, "select"),
    (_ParkingSelector, "_wait_for_real"),
    (VirtualLoop, "wake_for_real"),
    (Sequencer, "enter"),
    (Sequencer, "leave"),
    (Sequencer, "leave_after_wake"),
    (Sequencer, "dispatch"),
    (Sequencer, "try_park"),
    (Sequencer, "notify"),
    (Sequencer, "wake"),
    (Sequencer, "expect"),
    (Sequencer, "has_ended"),
    (Sequencer, "_await_turn"),
    (threading.Thread, "_bootstrap_inner"),
    (Future, "_invoke_callbacks"),
]
"""Where a thread may be held up, before and after."""


@contextmanager
def held_up(seed: int, chance: float = 0.05, longest: float = 0.003) -> Iterator[None]:
    """Hold threads up for a random real time at random places inside the block.

    Args:
        seed: Seed of the places and times.
        chance: How likely it is at each place.
        longest: Most seconds of a hold-up.
    """
    draw = random.Random(seed)
    never = threading.Lock()
    never.acquire()

    def hold_up() -> None:
        if draw.random() < chance:
            never.acquire(timeout=draw.uniform(0, longest))

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def held(*args: Any, **options: Any) -> Any:
            hold_up()
            try:
                return real(*args, **options)
            finally:
                hold_up()

        return held

    reals = [(owner, name, getattr(owner, name)) for owner, name in _PLACES]
    for owner, name, real in reals:
        setattr(owner, name, wrapped(real))
    try:
        yield
    finally:
        for owner, name, real in reals:
            setattr(owner, name, real)
