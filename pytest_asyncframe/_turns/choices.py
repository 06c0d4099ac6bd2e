"""Who decides what comes next where several things may."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol


class Chooser(Protocol):
    """Decides what comes next; called with the sequencer's lock held, so it takes no lock."""

    def choose(self, kind: str, what: str, options: Sequence[str], preempts: bool) -> int:
        """Return the index of what comes next.

        Args:
            kind: The kind of point: "start" where nobody can go on by itself, else "await",
                "framework", "call", "lock", "line" or "opcode".
            what: What the actor at the point is about to do; "" if nobody stands at one.
            options: The identities of what may come next, two or more; the first one is the
                default. They are the same in every process and for every hash seed.
            preempts: Whether the first option stands at the point and could go on, so that
                another choice preempts it.
        """
        ...


class RandomChooser:
    """Chooses evenly among all options.

    Args:
        seed: Equal seeds give equal choices.
    """

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed).randrange

    def choose(self, kind: str, what: str, options: Sequence[str], preempts: bool) -> int:
        """Return the index of what comes next; see `Chooser`."""
        return self._draw(len(options))
