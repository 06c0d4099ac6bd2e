"""Who decides what comes next where several things may."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

FAULT = "fault"
"""The kind of a choice among faults, of which the first option is none; see `Chooser.choose`."""


class Pending(NamedTuple):
    """Timeouts of what waits, which are not due yet and become due together.

    Attributes:
        names: Of the timeouts, the earliest first; the same in each run that has made the same
            choices.
        where: Where in the app's code the last of them waits, as ``app.py:12``.
        ahead: How many steps come before them if time passes now.
        held: The identity of the actor that is held back until they have fired; "" for none.
    """

    names: tuple[str, ...]
    where: str
    ahead: int
    held: str = ""

    @property
    def identity(self) -> str:
        """Its name, as "early timeout of get#1 and get#2"."""
        return f"early timeout of {' and '.join(self.names)}"


class Chooser(Protocol):
    """Decides what comes next; called with the sequencer's lock held, so it takes no lock.

    Attributes:
        takes_time: Whether `pass_time` is to be called.
    """

    takes_time: bool

    def choose(self, kind: str, what: str, options: Sequence[str], preempts: bool) -> int:
        """Return the index of what comes next.

        Args:
            kind: The kind of point: "start" where nobody can go on by itself, else "await",
                "framework", "call", "lock", "line" or "opcode"; or `FAULT`.
            what: What the actor at the point is about to do; "" if nobody stands at one. Between
                two steps of a loop, where in the user's code the latest one has stopped.
            options: The identities of what may come next, two or more; the first one is the
                default. They are the same in every process and for every hash seed.
            preempts: Whether the first option stands at the point and could go on, so that
                another choice preempts it.
        """
        ...

    def pass_time(self, pending: Sequence[Pending], served: Sequence[str]) -> int | None:
        """Return the index of the timeout until which time passes now; None for none.

        Called before each step of a loop and at each point once there was a timeout, without a
        lock.

        Args:
            pending: The timeouts of what waits, the earliest first.
            served: The names of those whose wait has ended since the last call, in time.
        """
        ...


class RandomChooser:
    """Chooses evenly among all options. No time passes while anything can run.

    Args:
        seed: Equal seeds give equal choices.
    """

    takes_time: bool = False

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed).randrange

    def choose(self, kind: str, what: str, options: Sequence[str], preempts: bool) -> int:
        """Return the index of what comes next; see `Chooser`."""
        return self._draw(len(options))

    def pass_time(self, pending: Sequence[Pending], served: Sequence[str]) -> int | None:
        """Return None; see `Chooser`."""
        return None


class InOrder:
    """Takes what comes first everywhere. No time passes while anything can run."""

    takes_time: bool = False

    def choose(self, kind: str, what: str, options: Sequence[str], preempts: bool) -> int:
        """Return 0; see `Chooser`."""
        return 0

    def pass_time(self, pending: Sequence[Pending], served: Sequence[str]) -> int | None:
        """Return None; see `Chooser`."""
        return None
