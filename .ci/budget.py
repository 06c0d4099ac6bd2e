"""Run a command that ends with pytest's closing line, and hold it to its budget.

    python3 .ci/budget.py tests/budget.toml make test

Fails as the command does, if more tests were collected than the file allows, or if the command and
all its processes took more CPU seconds, user's and system's together. What they may take grows with
what a loop takes here, before and after: processors that are shared with others can be slow.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

CLOSING = re.compile(r"=+ (?P<counts>.*\d+ (?:passed|failed|error).*) in [\d.]+s.* =+")
COUNT = re.compile(r"(\d+) (passed|failed|skipped|xfailed|xpassed|errors?)\b")


def cpu_of_children() -> float:
    """Return the CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds_of_loop() -> float:
    """Return the CPU seconds of ten million additions."""
    begin, total = time.process_time(), 0
    for number in range(10_000_000):
        total += number
    return time.process_time() - begin


def run(command: Sequence[str]) -> tuple[int, list[str], float]:
    """Run a command and show what it prints; return its status, its lines and its CPU seconds."""
    before = cpu_of_children()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    return process.returncode, lines, cpu_of_children() - before


def collected(lines: Sequence[str]) -> int | None:
    """Return how many tests the last closing line counts; None if there is none."""
    for line in reversed(lines):
        if found := CLOSING.fullmatch(line):
            return sum(int(count) for count, _ in COUNT.findall(found["counts"]))
    return None


def main(file: Path, command: Sequence[str]) -> int:
    """Run, compare and say in a line what was used of the budget."""
    budget = tomllib.loads(file.read_text("utf-8"))
    before = seconds_of_loop()
    status, lines, seconds = run(command)
    slowness = max(1.0, (before + seconds_of_loop()) / 2 / budget["loop_seconds"])
    tests = collected(lines)
    most = budget["cpu_seconds"] * (1 + budget["slack"]) * slowness
    print(
        f"{' '.join(command)}: {tests} tests of {budget['tests']}, {seconds:.0f} CPU seconds of "
        f"{budget['cpu_seconds']} (at most {most:.0f}, on a machine {slowness:.1f} times as slow)"
    )
    if tests is None:
        print("pytest's closing line is missing", file=sys.stderr)
        return status or 1
    if tests > budget["tests"] or seconds > most:
        print(f"over the budget: {file} says what may be done", file=sys.stderr)
        return status or 1
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
