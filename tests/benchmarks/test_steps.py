"""The measurement of steps, made small."""

from __future__ import annotations

import pytest

from benchmarks import steps
from benchmarks._servers import databases


@pytest.mark.extended("processes")
def test_a_step_has_a_cost() -> None:
    """Tasks with steps take longer than those without, and a process that sleeps answers."""
    with databases("sqlite") as places, steps._process("ours", next(places)) as process:
        found = process.cost(2, 40)
        assert found.rate > 0
        assert process._asked("watch 0") >= 0


@pytest.mark.extended("processes")
def test_a_process_that_fails_is_told() -> None:
    """The error of a process that cannot measure is in the one that ends the measurement."""
    with (
        pytest.raises(RuntimeError, match=r"^the process has ended, with 1: .*No module named"),
        steps._process("missing", ("sqlite://", [])) as process,
    ):
        process._asked("run 1 1 1")
