"""A schedule as a list of switches: which actor is passed over, where, and how often in a row.

The number of a step changes when an earlier choice does: others run for longer, or not at all.
So a switch says where the actor stands that is passed over, and how often it stood there before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_asyncframe._explore.schedule import Step

_MOST_PASSED = 1_000
"""How often an actor is passed over in a row, so that others do not wait for it forever."""


class Position(NamedTuple):
    """Where an actor is passed over.

    Attributes:
        actor: Its identity.
        kind: The kind of its point; "" if nobody stood at one.
        what: What it is about to do; if nobody stood at a point, at the latest point of it.
        visit: How often it was there before.
    """

    actor: str
    kind: str
    what: str
    visit: int


class Switch(NamedTuple):
    """An actor that would have come next is passed over, until it runs again.

    Attributes:
        position: Where it is.
        options: The identities of those that come instead, each at one choice. After the last
            one, it comes next when it is its turn.
    """

    position: Position
    options: tuple[str, ...]


def switches_of(steps: Sequence[Step]) -> list[Switch]:
    """Return the switches of a run, in their order."""
    positions = _Positions()
    found: list[tuple[Position, list[str]]] = []
    passed: dict[str, list[str]] = {}
    for step in steps:
        first = step.options[0]
        chosen = step.options[step.chosen]
        again = passed.get(first) if not step.preempts else None
        if again is None:
            position = positions.reached(step)
        if step.chosen and again is not None:
            again.append(chosen)
        elif step.chosen:
            passed[first] = [chosen]
            found.append((position, passed[first]))
        passed.pop(chosen, None)
    return [Switch(position, tuple(options)) for position, options in found]


class Switching:
    """Takes the default but for some switches.

    Args:
        switches: Those to make. One whose position is not reached is left out, and so is an option
            that is not offered.
        lasting: Whether who is passed over is held back until nobody else can go on, however
            often a switch says.

    Attributes:
        offered: The positions that were reached, with the options there.
        came_back: Whether someone who was passed over came next though others could go on.
    """

    def __init__(self, switches: Sequence[Switch], *, lasting: bool = False) -> None:
        self.offered: list[tuple[Position, Sequence[str]]] = []
        self.came_back = False
        self._options_at = {switch.position: switch.options for switch in switches}.get
        self._lasting = lasting
        self._positions = _Positions()
        self._passed: dict[str, Iterator[str]] = {}
        self._left = _MOST_PASSED

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        chosen = self._choose(step)
        self._passed.pop(step.options[chosen], None)
        return chosen

    def _choose(self, step: Step) -> int:
        options = step.options
        first = options[0]
        if first in self._passed and not step.preempts:
            return self._pass_again(options)
        position = self._positions.reached(step)
        self.offered.append((position, options))
        wanted = self._options_at(position)
        if wanted is None or wanted[0] not in options:
            return 0
        self._passed[first] = iter(wanted[1:])
        return options.index(wanted[0])

    def _pass_again(self, options: Sequence[str]) -> int:
        wanted = next(self._passed[options[0]], None)
        if wanted in options:
            return options.index(wanted)
        if self._lasting and self._left:
            self._left -= 1
            return next((n for n, one in enumerate(options) if one not in self._passed), 0)
        self.came_back = True
        return 0


class _Positions:
    """Where the actors of one run are that would come next."""

    def __init__(self) -> None:
        self._visits: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._latest: dict[str, str] = {}

    def reached(self, step: Step) -> Position:
        kind, what, actor = step.kind, step.what, step.options[0]
        if step.preempts:
            self._latest[actor] = what
        else:
            kind, what = "", self._latest.get(actor, "")
        visit = self._visits[actor, kind, what]
        self._visits[actor, kind, what] = visit + 1
        return Position(actor, kind, what, visit)
