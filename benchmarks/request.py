"""What a request with a task pays for, step by step: ``python -m benchmarks.request``.

One server process serves all ways in short turns, and each turn counts the processor time of
its threads, divided by the requests. So the ratios hold on a busy machine too; the spread of
"no job, once more" is the noise of all of them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any  # answers of the server

from benchmarks._measure import ROOT, Samples, rotated
from benchmarks.peers import CREATE_TASK
from benchmarks.request_app import (
    AGAIN,
    BACKGROUND_AGAIN,
    BACKGROUND_WAITS,
    INSIDE,
    JOBLESS,
    LOOP,
    LOOP_STAGED,
    LOOP_WAITS,
    STAGED,
    SUBMITTED,
    THREAD,
    WAYS,
    WOKEN,
)
from benchmarks.request_calls import Entered
from benchmarks.request_calls import as_text as calls_as_text
from benchmarks.served_app import BACKGROUND_ASYNC, BACKGROUND_SYNC, FLOOR
from benchmarks.served_load import Connection

CONNECTIONS = 16
_PATIENCE = 30.0
_WARM_UP = 5
STACKS = {"asyncio": "h11", "uvloop": "httptools"}


@dataclass(frozen=True)
class Cost:
    """What a request cost in one turn, in microseconds.

    Attributes:
        loop: Processor time of the event loop's thread.
        threads: Processor time of all other threads.
        wall: Time that passed.
    """

    loop: float
    threads: float
    wall: float

    @property
    def cpu(self) -> float:
        """Processor time of the whole process."""
        return self.loop + self.threads


class Client:
    """Loads one server over connections that stay open."""

    def __init__(self, port: int) -> None:
        self._control = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
        self._selector = selectors.DefaultSelector()
        self._connections = [Connection(port) for _ in range(CONNECTIONS)]
        for one in self._connections:
            self._selector.register(one.socket, selectors.EVENT_READ, one)

    def close(self) -> None:
        """Close all connections."""
        for one in self._connections:
            one.socket.close()
        self._selector.close()
        self._control.close()

    def ask(self, path: str) -> Any:
        """Return the answer to ``GET`` *path* of the server's own endpoints."""
        self._control.request("GET", path)
        answer: Any = json.loads(self._control.getresponse().read())
        return answer

    def turn(self, way: str, requests: int) -> Cost:
        """Load *way* with so many requests, and wait until their jobs have run."""
        before = self.ask(f"/turn/{WAYS.index(way)}")
        begin = time.perf_counter()
        self.load(requests)
        wall = time.perf_counter() - begin
        after = self._after(before["ran"] + (0 if way in JOBLESS else requests))
        return Cost(
            (after["loop"] - before["loop"]) / requests / 1e3,
            (after["threads"] - before["threads"]) / requests / 1e3,
            wall / requests * 1e6,
        )

    def _after(self, ran: int) -> dict[str, int]:
        """Return the figures once so many jobs have run."""
        end = time.perf_counter() + _PATIENCE
        while True:
            figures: dict[str, int] = self.ask("/figures")
            if figures["ran"] == ran:
                return figures
            if time.perf_counter() > end:
                raise RuntimeError(f"{figures['ran']} jobs ran, not {ran}")

    def load(self, requests: int) -> None:
        """Send so many requests, one after the other on each connection."""
        first = self._connections[:requests]
        left = requests - len(first)
        for one in first:
            one.ask()
        answered = 0
        while answered < requests:
            for key, _ in self._selector.select(_PATIENCE):
                if not key.data.take():
                    continue
                answered += 1
                if left > 0:
                    left -= 1
                    key.data.ask()


@contextmanager
def serving(loop: str, module: str = "request_app") -> Iterator[int]:
    """Start the server on this loop and yield its port."""
    command = [sys.executable, "-m", f"benchmarks.{module}", loop, STACKS[loop]]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["port"]
        finally:
            process.terminate()


Costs = Mapping[str, Sequence[Cost]]
"""The costs of each way, round by round."""


def measured(loop: str, rounds: int, requests: int, ways: Sequence[str] = WAYS) -> Costs:
    """Load every way in turn, so many rounds after some that do not count."""
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    with serving(loop) as port, closing(Client(port)) as client:
        for number in range(-_WARM_UP, rounds):
            for way in rotated(ways, number % len(ways)):
                cost = client.turn(way, requests)
                if number >= 0:
                    costs[way].append(cost)
    return costs


def samples(
    loop: str, rounds: int, names: Mapping[str, str], floor: str, turns: int = 10
) -> dict[str, Samples]:
    """Return the processor time of a request, in microseconds, for a row of the table.

    Args:
        loop: Of the server.
        rounds: How many count, from 1 on.
        names: What each way is called.
        floor: The way that the others are compared with.
        turns: How many turns a round has, of which the median counts.
    """
    costs = measured(loop, rounds * turns, 20 * CONNECTIONS, list(names))
    found = {name: Samples() for name in names.values()}
    for number in range(rounds):
        of_round = slice(number * turns, (number + 1) * turns)
        values = {way: statistics.median(c.cpu for c in costs[way][of_round]) for way in names}
        for way, name in names.items():
            found[name].add(values[way], values[floor])
    return found


STEPS = {
    "a sync function": (FLOOR, INSIDE, SUBMITTED, STAGED, WOKEN, THREAD),
    "an async function": (FLOOR, INSIDE, SUBMITTED, LOOP_STAGED, LOOP),
}
"""Ways of which each does what the one before does, and a step more."""

BESIDE = (AGAIN, CREATE_TASK, BACKGROUND_ASYNC, BACKGROUND_SYNC)

GOALS = {
    (THREAD, FLOOR): {"asyncio": 1.17, "uvloop": 1.18},
    (LOOP, BACKGROUND_ASYNC): {"asyncio": 1.03, "uvloop": 1.03},
    (LOOP_WAITS, BACKGROUND_WAITS): {"asyncio": 1.03, "uvloop": 1.03},
    (LOOP, FLOOR): {},
    (AGAIN, FLOOR): {},
    (BACKGROUND_AGAIN, BACKGROUND_ASYNC): {},
}
"""Greatest allowed ratio on each loop. The last two are the same way twice: the noise."""


def as_text(loop: str, costs: Costs) -> str:
    """Return tables of the steps and of the ratios."""
    lines = []
    for title, steps in STEPS.items():
        lines.append(f"{loop}: {title:43} {'CPU us':>8} {'step':>7} {'loop':>8} {'threads':>8}")
        lines += [_line(costs, way, before) for before, way in pairwise((FLOOR, *steps))]
        lines.append("")
    lines.append(f"{loop}: beside no job")
    lines += [_line(costs, way, FLOOR) for way in BESIDE]
    lines.append("")
    lines += [_ratio(loop, costs, way, floor) for way, floor in GOALS]
    return "\n".join([*lines, ""])


def _line(costs: Costs, way: str, before: str) -> str:
    """Return the medians of *way*, and what it costs more than *before* in the same round."""
    pairs = zip(costs[way], costs[before], strict=True)
    step = statistics.median(here.cpu - there.cpu for here, there in pairs)
    cpu, loop, threads = (
        statistics.median(getattr(cost, name) for cost in costs[way])
        for name in ("cpu", "loop", "threads")
    )
    return f"  {way:50} {cpu:8.2f} {step:+7.2f} {loop:8.2f} {threads:8.2f}"


def _ratio(loop: str, costs: Costs, way: str, floor: str) -> str:
    """Return the median ratio of *way* to *floor*, with its quartiles and its goal."""
    pairs = zip(costs[way], costs[floor], strict=True)
    low, middle, high = statistics.quantiles((here.cpu / there.cpu for here, there in pairs), n=4)
    at_most = GOALS[way, floor].get(loop)
    goal = "" if at_most is None else f", goal {at_most:.2f}"
    return f"  {way} / {floor}: {middle:.3f} (quartiles {low:.3f} and {high:.3f}{goal})"


def called(loop: str) -> str:
    """Return what one request calls, of each way that is a task, once it is warm."""
    with serving(loop, "request_calls") as port, closing(Client(port)) as client:
        # The first record has the rest of what the server does only once.
        _one_request(client, FLOOR)
        found = {way: _one_request(client, way) for way in (FLOOR, THREAD, LOOP, BACKGROUND_ASYNC)}
    floor = found.pop(FLOOR)
    return "\n".join(calls_as_text(way, one, floor) for way, one in found.items())


def _one_request(client: Client, way: str) -> Entered:
    client.turn(way, 10 * CONNECTIONS)
    client.ask("/record")
    client.load(1)
    time.sleep(0.05)  # noqa: TID251  # the task ends meanwhile
    entered: Entered = client.ask("/calls")
    return entered


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request", description=__doc__)
    parser.add_argument("--loop", choices=STACKS, action="append", help="default: both")
    parser.add_argument("--rounds", type=int, default=60, help="how many count (default: 60)")
    parser.add_argument("--requests", type=int, default=320, help="of a turn (default: 320)")
    parser.add_argument("--calls", action="store_true", help="list what one request calls")
    options = parser.parse_args()
    for loop in options.loop or STACKS:
        if options.calls:
            sys.stdout.write(called(loop) + "\n")
            continue
        sys.stdout.write(as_text(loop, measured(loop, options.rounds, options.requests)) + "\n")


if __name__ == "__main__":
    main()
