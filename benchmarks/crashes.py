"""How soon an order goes on when its process ends, beside DBOS: ``python -m benchmarks.crashes``.

The shops of `benchmarks.stepping` are served by uvicorn. The carrier does not answer, and the
process that runs the order is killed or asked to end meanwhile. It is timed until the carrier is
asked again. In ``alone`` another process is started at once, and how long that takes is told beside
it; ``among three`` has two more that run already, and none is started.

Seconds are by the clock, so nothing else may run. Each figure is the middle of the rounds, the
worst one in brackets. Last come the lines of both shops and of their crash tests, without
docstrings, comments and empty ones. `benchmarks.queues` says how DBOS is installed; this one also
needs uvicorn and httpx.

``--help`` names the arguments.
"""

from __future__ import annotations

import argparse
import ast
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Final

import httpx

from benchmarks._measure import ROOT
from benchmarks._report import Table
from benchmarks._servers import databases
from benchmarks.stepping import _world
from tests.serving import READY, Server

SYSTEMS: Final = {"asyncframe": "ours", "DBOS": "dbos"}
KINDS: Final = ("sqlite", "postgresql")
STEPPING: Final = ROOT / "benchmarks" / "stepping"
WAYS: Final = {
    "kill -9, alone": (signal.SIGKILL, 1),
    "SIGTERM, alone": (signal.SIGTERM, 1),
    "kill -9, among three": (signal.SIGKILL, 3),
    "SIGTERM, among three": (signal.SIGTERM, 3),
}
"""The signal, and how many processes run."""

PATIENCE: Final = 30.0
"""Seconds after which an order does not go on any more."""

SETTLED: Final = 3.0
"""Seconds in which processes have come to know each other."""


class Shop:
    """A shop, whose processes share a database.

    Args:
        module: Of `SYSTEMS`.
        url: Of the database.
        file: Of the world outside.
        processes: Closes what it starts.
    """

    def __init__(self, module: str, url: str, file: Path, processes: ExitStack) -> None:
        self._app = f"benchmarks.stepping.shop_{module}:app"
        self._environment = {"SHOP_STORE": url, _world.FILE: str(file), _world.HOLDS: "1"}
        self._processes = processes
        os.environ[_world.FILE] = str(file)

    def start(self) -> Server:
        """Start one more process."""
        made = Server(
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "uvicorn", self._app, "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self._environment},
            )
        )
        self._processes.callback(made.close)
        return made

    def timed(self, number: signal.Signals, processes: int) -> tuple[float, float]:
        """Return the seconds from a signal until an order goes on, and those of a start meanwhile.

        Args:
            number: The signal.
            processes: How many run; if it is the only one, another is started at once.
        """
        running = [self.start() for _ in range(processes)]
        for one in running:
            one.wait_for(READY)
        time.sleep(SETTLED)  # noqa: TID251 - nothing tells of it in both systems
        httpx.post(f"{running[0].url}/orders/7", timeout=PATIENCE).raise_for_status()
        _shipped(1)
        began, started = time.perf_counter(), 0.0
        running[0].send_signal(number)
        if processes == 1:
            running[0].wait(PATIENCE)
            before = time.perf_counter()
            self.start().wait_for(READY)
            started = time.perf_counter() - before
        again = _shipped(2)
        return again - began, started


def _shipped(times: int) -> float:
    """Wait until the carrier was asked so often; return when, or infinity if it never is."""
    end = time.perf_counter() + PATIENCE
    while time.perf_counter() < end:
        found = _world.noted("ship", 7)
        if len(found) >= times:
            return found[times - 1]
        time.sleep(0.005)  # noqa: TID251 - nothing tells of it in both systems
    return float("inf")


def main(arguments: Sequence[str]) -> None:
    """Measure all, round by round, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crashes", description="Time how soon an order goes on."
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often (%(default)s)")
    parser.add_argument(
        "--kind", choices=KINDS, action="append", help="of a database; both if none"
    )
    options = parser.parse_args(arguments)
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for kind in options.kind or KINDS:
        with databases(kind) as places, _files() as files:
            for _ in range(options.rounds):
                for title, module in SYSTEMS.items():
                    for way, (number, processes) in WAYS.items():
                        with ExitStack() as stack:
                            shop = Shop(module, next(places)[0], next(files), stack)
                            took = shop.timed(number, processes)
                        found[f"{title}, {kind}", way].append(took)
                        _say(f"{title}, {kind}, {way}: {took[0]:.2f} s, {took[1]:.2f} to start")
    _say(f"\n{options.rounds} rounds, Python {sys.version.split()[0]}\n")
    _say(f"{_table(found).as_markdown()}\n")
    for title, module in SYSTEMS.items():
        shop_lines, test_lines = (
            lines_of(STEPPING / f"{name}_{module}.py") for name in ("shop", "test_shop")
        )
        _say(f"{title}: {shop_lines} lines of the shop, {test_lines} of its crash test")


@contextmanager
def _files() -> Iterator[Iterator[Path]]:
    with tempfile.TemporaryDirectory() as folder:
        yield (Path(folder) / str(at) for at in count())


def _table(found: dict[tuple[str, str], list[tuple[float, float]]]) -> Table:
    titles = list(dict.fromkeys(title for title, _ in found))
    lines = [[title, *(_told(found[title, way]) for way in WAYS)] for title in titles]
    return Table(["seconds until the order goes on", *WAYS], lines)


def _told(some: Sequence[tuple[float, float]]) -> str:
    took, started = zip(*some, strict=True)
    middle = statistics.median(took)
    if middle == float("inf"):
        return f"not within {PATIENCE:.0f} s"
    beside = f", {statistics.median(started):.1f} of it the start" if any(started) else ""
    return f"{middle:.1f} ({max(took):.1f}){beside}"


def lines_of(path: Path) -> int:
    """Return how many lines of code a file has, without docstrings, comments and empty ones.

    A statement that a formatter has broken into several lines is one.
    """
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return sum(bool(line.strip()) for line in ast.unparse(tree).splitlines())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
