"""Faults of the rule of taking, planted into the product's own functions for some runs.

Each is a function as it stands, with one piece of its text replaced: so a fault goes when the
function changes that it is in, and its test says so.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from framework._manager.hosting.host import RemoteHost
from framework._manager.submitting.requeued import Requeued
from framework.stores.sql._shared.free import claims
from tests.explore.ourselves.run import Run, Scenario


@dataclass(frozen=True)
class Piece:
    """A piece of the text of a function, and what is there instead.

    Attributes:
        owner: The class or module that has the function.
        name: Its name there.
        text: What is replaced, which its source has once.
        by: What it is replaced by.
    """

    owner: Any
    name: str
    text: str
    by: str

    def function(self) -> Callable[..., Any]:
        """Return the function as it is with the other text."""
        function = inspect.getattr_static(self.owner, self.name)
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.text) == 1, f"{self.name} has changed"
        code = compile(
            f"from __future__ import annotations\n{source.replace(self.text, self.by)}",
            inspect.getsourcefile(function) or "",
            "exec",
            dont_inherit=True,
        )
        made: dict[str, Any] = {}
        exec(code, function.__globals__, made)
        faulty: Callable[..., Any] = made[self.name]
        return faulty


def with_fault(scenario: Scenario, pieces: Iterable[Piece]) -> Scenario:
    """Return a scenario in whose runs some functions have another text."""
    faulty = [(one.owner, one.name, one.function()) for one in pieces]

    @wraps(scenario)
    def run_with_fault(run: Run) -> None:
        for owner, name, function in faulty:
            run.replace(owner, name, function)
        scenario(run)

    return run_with_fault


FAULTS: dict[str, tuple[Piece, ...]] = {
    "starts without a permit": (
        Piece(Requeued, "hold", "None if task.restart.permitted else self._runs", "None"),
    ),
    "gives away what runs": (
        Piece(RemoteHost, "give_away", " and task.status is PENDING", ""),
        Piece(
            Requeued,
            "let_go",
            "not waits and (task.status in FINAL or not (restart.idempotent or paused))",
            "task.status in FINAL",
        ),
    ),
    "claims more than it has places for": (
        Piece(claims, "choose", "min(places, MOST)", "min(places + 1, MOST)"),
    ),
}
"""For each fault what is wrong then."""
