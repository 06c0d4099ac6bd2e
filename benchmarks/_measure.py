"""Interleaved rounds, children in fresh interpreters, and the samples that they give."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

OURS = "asyncframe"

APART = Path(sys.prefix) / "arq"
"""The environment of ARQ, which needs an older client of Redis than others accept."""


@dataclass
class Samples:
    """What one case gave, round by round, each beside the floor of the same round.

    Attributes:
        values: Measured, one for each round; the less the better.
        floors: The floor in the same round, in the same unit.
    """

    values: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)

    def add(self, value: float, floor: float) -> None:
        """Add one round."""
        self.values.append(value)
        self.floors.append(floor)

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)

    @property
    def ratio(self) -> float:
        """The middle of the paired ratios to the floor."""
        return statistics.median(
            value / floor for value, floor in zip(self.values, self.floors, strict=True)
        )

    @property
    def spread(self) -> tuple[float, float]:
        """Least and greatest of the paired ratios to the floor."""
        ratios = [value / floor for value, floor in zip(self.values, self.floors, strict=True)]
        return min(ratios), max(ratios)


Case = Callable[[], float]
"""Measures once and returns a number, the less the better."""


def interleave(cases: Mapping[str, Case], floor: str, rounds: int) -> dict[str, Samples]:
    """Run every case once per round, in a rotated order, after one round to warm up.

    Args:
        cases: By name.
        floor: Which of them the others are compared with.
        rounds: How many rounds count, from 1 on.
    """
    names = list(cases)
    for name in names:
        cases[name]()
    samples = {name: Samples() for name in names}
    for number in range(rounds):
        turn = number % len(names)
        values = {}
        for name in names[turn:] + names[:turn]:
            gc.collect()
            values[name] = cases[name]()
        for name in names:
            samples[name].add(values[name], values[floor])
    return samples


def child(module: str, *arguments: str, timeout: float = 180) -> Any:
    """Run ``python -m module arguments`` in a fresh interpreter; its last line is JSON.

    Raises:
        RuntimeError: If it fails or prints no JSON, with what it wrote, if only to stdout.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        told = done.stderr or done.stdout
        raise RuntimeError(f"{module} {' '.join(arguments)} failed: {told[-2000:]}")
    return json.loads(lines[-1])


def rotated(names: Sequence[str], number: int) -> list[str]:
    """Return *names* in the order of round *number*, so that none is always first."""
    turn = number * (len(names) // 2 + 1) % len(names)
    return [*names[turn:], *names[:turn]]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which *share* of the values lie, 0.0 to 1.0."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
