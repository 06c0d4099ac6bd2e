"""What telemetry costs: the processor time of a task, without it and with each kind.

``python -m benchmarks.telemetry`` prints a line for each kind, measured in a process of
its own. All threads count, and the best of the rounds.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from time import process_time
from typing import Final

from benchmarks._measure import ROOT
from framework import TaskManager, background_task, get_task_manager, setup_async_framework
from framework.protocols import TaskEvent, Telemetry
from framework.telemetry.prometheus import PrometheusSink

SIZE = 2_000
"""Tasks in one round."""

_ROUNDS: Final = 30


class Empty:
    """Hears of the same events as `PrometheusSink`, and does nothing."""

    def attach(self, manager: TaskManager) -> Callable[[], None]:
        """Subscribe to them."""

        def hear(_: TaskEvent) -> None:
            """Do nothing."""

        return manager.subscribe(hear, kinds={"submitted", "completed"})


KINDS: Final[Mapping[str, Callable[[], list[Telemetry]]]] = {
    "none": list,
    "a sink that does nothing": lambda: [Empty()],
    "PrometheusSink": lambda: [PrometheusSink()],
    "PrometheusSink, for several processes": lambda: [PrometheusSink()],
}


@background_task
def work() -> None:
    """Do nothing."""


async def measured(kind: str, rounds: int) -> float:
    """Return the seconds of processor time that a task takes from its call to its result."""
    best = float("inf")
    async with setup_async_framework(None, max_workers=1, telemetry=KINDS[kind]()):
        manager = get_task_manager()
        for _ in range(rounds):
            begun = process_time()
            for task_id in [work() for _ in range(SIZE)]:
                await manager.get_result(task_id)
            best = min(best, process_time() - begun)
            manager.cleanup_completed_tasks(0)
    return best / SIZE


def in_child(kind: str) -> float:
    """Measure a kind in an interpreter of its own; return seconds."""
    with tempfile.TemporaryDirectory() as folder:
        several = {"PROMETHEUS_MULTIPROC_DIR": folder} if "several" in kind else {}
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.telemetry", kind],
            cwd=ROOT,
            env=os.environ | several,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    return float(told)


def main(arguments: list[str]) -> None:
    """Measure one kind in this interpreter, or all and print them."""
    for kind in arguments:
        sys.stdout.write(str(asyncio.run(measured(kind, _ROUNDS))))
    if arguments:
        return
    found = {kind: in_child(kind) for kind in KINDS}
    for kind, seconds in found.items():
        more = seconds - found["none"]
        sys.stdout.write(f"{kind:40}{seconds * 1e6:6.1f} µs{more * 1e6:+8.1f} µs\n")


if __name__ == "__main__":
    main(sys.argv[1:])
