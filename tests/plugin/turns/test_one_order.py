"""The promise of the modes auto and seeded: one order, whatever the system does to threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pytest_asyncframe._toolkit.options import Mode
from tests.plugin.turns.hold_ups import held_up
from tests.plugin.turns.orders import PROGRAMS, Program, history_of

SEED = 7

each_program = pytest.mark.parametrize("program", PROGRAMS)
each_mode = pytest.mark.parametrize("mode", ["auto", "seeded"])


def histories(program: Program, mode: Mode, runs: int, longest: float) -> set[tuple[str, ...]]:
    """Return the different histories of some runs, in which threads are held up."""
    found = {history_of(program, mode, SEED)}
    for number in range(1, runs):
        with held_up(number, longest=longest):
            found.add(history_of(program, mode, SEED))
    return found


@pytest.mark.extended("time")
@each_mode
def test_one_order(mode: Mode) -> None:
    """In four runs with threads held up at random, everything happens in one order."""
    found = {one.__name__: len(histories(one, mode, 4, longest=0.001)) for one in PROGRAMS}
    assert found == {one.__name__: 1 for one in PROGRAMS}


@pytest.mark.extended("time")
def test_other_seeds_give_other_orders() -> None:
    """The programs here have many orders: of six seeds, most give an order of their own."""
    few = {}
    for program in PROGRAMS:
        orders = {history_of(program, "seeded", seed) for seed in range(6)}
        if len(orders) <= 3:
            few[program.__name__] = orders
    assert few == {}


@contextmanager
def busy_processors() -> Iterator[None]:
    """Keep two processors busy inside the block."""
    with ExitStack() as stack:
        for _ in range(2):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.enter_context(busy)
            stack.callback(busy.kill)
        yield


@pytest.mark.soak
@pytest.mark.timeout(1800)
@each_mode
@each_program
def test_one_order_in_1000_runs(program: Program, mode: Mode) -> None:
    """In 1,000 runs beside busy processes, everything happens in one order."""
    with busy_processors():
        assert len(histories(program, mode, 1_000, longest=0.003)) == 1
