"""How the state machines of the contracts are driven."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Final

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.processes.contracts.implementations import BackEnd, Process
from tests.tiers import back_ends

FEW: Final = 8
MANY: Final = 400
STEPS: Final = 30
PROCESSES: Final = 3
PHASES: Final = (Phase.explicit, Phase.reuse, Phase.generate)
"""To shrink a failure takes minutes with a database, so that only a soak does it."""

how_many = pytest.mark.parametrize(
    "examples",
    [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.soak)],
)
"""Gives a test a number of examples: some each time, and many of them in a soak."""

mortal = pytest.mark.parametrize(
    "back_end", back_ends(["sqlite", "postgres", "redis"]), indirect=True
)
"""Gives a test the back ends whose processes can die while others go on."""

numbers: Final = st.integers(0, PROCESSES - 1)
"""Which process."""

_examples = count(1)


def drive(make: Callable[[], RuleBasedStateMachine], examples: int) -> None:
    """Run a state machine, and print how to run a failing example once more."""
    chosen = settings(
        RuleBasedStateMachine.TestCase.settings,  # without a deadline
        max_examples=examples,
        stateful_step_count=STEPS,
        print_blob=True,
        derandomize=False,
        phases=PHASES if examples == FEW else (*PHASES, Phase.shrink),
    )
    run_state_machine_as_test(make, settings=chosen)  # type: ignore[arg-type]  # any factory will do


class Machine(RuleBasedStateMachine):
    """Drives a back end; each example has keys of its own.

    Args:
        back_end: The back end.
    """

    def __init__(self, back_end: BackEnd) -> None:
        super().__init__()
        self.back_end = back_end
        self.prefix = f"{next(_examples)}:"
        back_end.clear()
        while len(back_end.processes) < PROCESSES:
            back_end.start()

    def process(self, number: int) -> Process:
        """Return a process by its number."""
        process: Process = self.back_end.processes[number]
        return process
