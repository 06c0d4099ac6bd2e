"""What a step costs, beside DBOS: ``python -m benchmarks.steps``.

Tasks of asyncframe and workflows of DBOS call steps that do nothing, on SQLite and on PostgreSQL,
both with the disk waited for. Each is measured with steps and without; the difference, divided by
the number of steps, is what a step costs. It is measured in one task after the other, and in ten
and twenty side by side.

``asleep``: so many tasks wait in ``sleep``, and their process is watched for some seconds. What it
costs without them does not count.

CPU times are of the process and of the server. Steps a second are by the clock, so nothing else may
run. Each figure is the middle of the rounds. `benchmarks.queues` says how DBOS is installed.

``--help`` names the arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from benchmarks._measure import ROOT
from benchmarks._report import Table
from benchmarks._servers import Place, databases, spent

SYSTEMS: Final = {"asyncframe": "ours", "DBOS": "dbos"}
KINDS: Final = ("sqlite", "postgresql")
LANES: Final = (1, 10, 20)
"""How many tasks run side by side."""

STEPS: Final = 20
"""How many steps a task has."""

TASKS: Final = 40
"""How many tasks are measured, one after the other in each lane."""

ASLEEP: Final = 2_000
WATCHED: Final = 10.0
"""Seconds for which those that sleep are watched."""


class Costs(NamedTuple):
    """What a step costs, in microseconds, and how many are run in a second."""

    process: float
    server: float
    rate: float


def main(arguments: Sequence[str]) -> None:
    """Measure all, round by round, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps", description="Measure what a step costs, beside DBOS."
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often (%(default)s)")
    parser.add_argument(
        "--tasks", type=int, default=TASKS, help="of each measurement (%(default)s)"
    )
    parser.add_argument(
        "--kind", choices=KINDS, action="append", help="of a database; both if none"
    )
    options = parser.parse_args(arguments)
    for kind in options.kind or KINDS:
        steps: dict[tuple[str, int], list[Costs]] = defaultdict(list)
        asleep: dict[str, list[Costs]] = defaultdict(list)
        with databases(kind) as places:
            for _ in range(options.rounds):
                for title, module in SYSTEMS.items():
                    with _process(module, next(places)) as process:
                        for lanes in LANES:
                            cost = process.cost(lanes, options.tasks)
                            steps[title, lanes].append(cost)
                            _say(f"{kind}, {title}, {lanes} side by side: {_told(cost)}")
                        asleep[title].append(process.asleep())
                        _say(f"{kind}, {title}, asleep: {_told(asleep[title][-1])}")
        _say(f"\n{kind}, {options.rounds} rounds, Python {sys.version.split()[0]}\n")
        _say(f"{_table(steps).as_markdown()}\n")
        for title, some in asleep.items():
            middle = _middle(some)
            _say(f"{title}: {ASLEEP:,} asleep cost {_pair(middle, 1_000)} ms of CPU time a second")


class _Process:
    """A process of one system that runs what it is told to.

    Args:
        process: The process.
        servers: Those of its database.
    """

    def __init__(self, process: subprocess.Popen[str], servers: Sequence[int]) -> None:
        self._process, self._servers = process, servers

    def cost(self, lanes: int, tasks: int) -> Costs:
        """Return what a step costs in tasks, of which some run side by side."""
        tasks = max(tasks, 2 * lanes)
        self._run(lanes, 2 * lanes, 2)
        bare, full = self._run(lanes, tasks, 0), self._run(lanes, tasks, STEPS)
        process, server, seconds = (
            (more - less) / (tasks * STEPS) for more, less in zip(full, bare, strict=True)
        )
        return Costs(1e6 * process, 1e6 * server, 1 / seconds)

    def asleep(self) -> Costs:
        """Return what those cost in a second that sleep, beside what the process costs anyway."""
        bare = self._spent(f"watch {WATCHED}")
        self._asked(f"sleep {ASLEEP}")
        full = self._spent(f"watch {WATCHED}")
        process, server, _ = (
            (more - less) / WATCHED for more, less in zip(full, bare, strict=True)
        )
        return Costs(1e6 * process, 1e6 * server, 0.0)

    def _run(self, lanes: int, tasks: int, steps: int) -> tuple[float, float, float]:
        return self._spent(f"run {lanes} {tasks} {steps}")

    def _spent(self, order: str) -> tuple[float, float, float]:
        """Return the CPU seconds of the process and of the server, and the seconds."""
        before = spent([self._process.pid]), spent(self._servers)
        seconds = self._asked(order)
        after = spent([self._process.pid]), spent(self._servers)
        return after[0] - before[0], after[1] - before[1], seconds

    def _asked(self, order: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended: what it said is below
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return float(json.loads(line.removeprefix(ANSWER)))
        raise RuntimeError(f"the process has ended, with {self._process.wait()}")


ANSWER: Final = "answer: "


@contextmanager
def _process(module: str, place: Place) -> Iterator[_Process]:
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", f"benchmarks.stepping.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "BENCHMARKS_URL": place[0]},
        ) as made,
    ):
        try:
            yield _Process(made, place[1])
        except RuntimeError as error:
            log.seek(0)
            lines = log.read().splitlines()
            raise RuntimeError(f"{error}: {lines[-1] if lines else 'it said nothing'}") from error
        finally:
            made.kill()


def _table(found: dict[tuple[str, int], list[Costs]]) -> Table:
    head = ["", *(f"{lanes} side by side" for lanes in LANES)]
    head += [f"steps a second, {lanes}" for lanes in LANES]
    lines = []
    for title in SYSTEMS:
        middles = [_middle(found[title, lanes]) for lanes in LANES]
        costs = [_pair(one, 1) for one in middles]
        lines.append([title, *costs, *(f"{one.rate:,.0f}" for one in middles)])
    return Table(head, lines)


def _middle(costs: Sequence[Costs]) -> Costs:
    return Costs(*(statistics.median(column) for column in zip(*costs, strict=True)))


def _pair(costs: Costs, by: float) -> str:
    digits = 2 if by > 1 else 0
    return f"{costs.process / by:,.{digits}f} + {costs.server / by:,.{digits}f}"


def _told(costs: Costs) -> str:
    rate = f", {costs.rate:,.0f} steps/s" if costs.rate else " a second"
    return f"{costs.process:.0f} µs, {costs.server:.0f} in the server{rate}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
