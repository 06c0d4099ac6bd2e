"""Thousands of ids over processes that are killed, suspended and ended: what is said of each.

The functions of the tasks write down when they begin and end, in a file of their own. That is
compared with what every process says of each id.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("apps") / "crowded.py"
ROOT = Path(__file__).resolve().parents[2]

MAY_REPEAT = {"again", "retried"}
"""The kinds whose functions may begin more than once."""

MAY_BE_LOST = {"plain", "retried"}
"""The kinds that end INTERRUPTED with their process, before they have begun as well."""

Said = Mapping[str, str | None]


def faults(kinds: Mapping[str, str], said: Iterable[Said], effects: str) -> dict[str, int]:
    """Return how many ids there are for each thing that must not be.

    Args:
        kinds: The kind of each id that was accepted.
        said: What each process says of the ids.
        effects: What the functions have written: ``begin <id>`` and ``end <id>``, a line each.
    """
    begun, ended = Counter[str](), Counter[str]()
    for line in effects.splitlines():
        word, task_id = line.split()
        (begun if word == "begin" else ended)[task_id] += 1
    found, first, *others = Counter[str](), *said
    for task_id, kind in kinds.items():
        status = first[task_id]
        if any(one[task_id] != status for one in others):
            found["said differently"] += 1
        if status is None:
            found["unknown"] += 1
        elif status in ("pending", "running"):
            found["never ended"] += 1
        elif status == "completed" and not ended[task_id]:
            found["completed without an end"] += 1
        elif status == "interrupted" and not begun[task_id] and kind not in MAY_BE_LOST:
            found["lost before it began"] += 1
        if begun[task_id] > 1 and kind not in MAY_REPEAT:
            found["doubled"] += 1
    return dict(found)


def test_faults_are_found() -> None:
    """Each thing that must not be is counted, and none where all is as it should be."""
    kinds = {"a": "plain", "b": "requeued", "c": "again"}
    good: dict[str, str | None] = {"a": "interrupted", "b": "completed", "c": "completed"}
    effects = "begin b\nend b\nbegin c\nbegin c\nend c\n"
    assert faults(kinds, [good, dict(good)], effects) == {}
    assert faults(kinds, [good, {**good, "a": "completed"}], effects) == {"said differently": 1}
    assert faults(kinds, [{**good, "a": None}], effects) == {"unknown": 1}
    assert faults(kinds, [{**good, "c": "running"}], effects) == {"never ended": 1}
    assert faults(kinds, [{**good, "a": "completed"}], effects) == {"completed without an end": 1}
    assert faults(kinds, [{**good, "b": "interrupted"}], "") == {
        "lost before it began": 1,
        "completed without an end": 1,
    }
    assert faults(kinds, [good], effects + "begin b\n") == {"doubled": 1}


class Process:
    """One of the processes, which takes orders.

    Args:
        url: The database.
        file: Where its functions write.
    """

    def __init__(self, url: str, file: Path) -> None:
        self._made = subprocess.Popen(
            [sys.executable, str(PROGRAM), url, str(file)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._read() == "ready"

    def ask(self, *order: Any) -> Any:
        """Give an order, and return the answer."""
        self.order(*order)
        return json.loads(self._read())

    def order(self, *order: Any) -> None:
        """Give an order, and do not wait for the answer."""
        assert self._made.stdin is not None
        self._made.stdin.write(json.dumps(order) + "\n")
        self._made.stdin.flush()

    def _read(self) -> str:
        assert self._made.stdout is not None
        return self._made.stdout.readline().strip()

    def suspend(self, seconds: float) -> None:
        """Let it stand still for a while."""
        self._made.send_signal(signal.SIGSTOP)
        try:
            self._made.wait(seconds)
        except subprocess.TimeoutExpired:
            self._made.send_signal(signal.SIGCONT)

    def end(self, how: signal.Signals | None = None) -> None:
        """End it: by a signal, or in order."""
        assert self._made.stdin is not None
        assert self._made.stdout is not None
        if how is None:
            self._made.stdin.close()
        else:
            self._made.send_signal(how)
        self._made.stdout.read()
        self._made.wait()
        for pipe in (self._made.stdin, self._made.stdout):
            pipe.close()


ROUNDS = 14
"""How often something is done to one of the processes."""


@pytest.mark.soak
@pytest.mark.extended("processes")
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("how", ["killed", "ended", "suspended"])
def test_what_is_said_of_each_id(
    sql_url: str, tmp_path: Path, how: str, record_property: Callable[[str, object], None]
) -> None:
    """Whatever happens to the processes, all of them say the same of each id, and it is true."""
    rng, file, kinds = random.Random(7), tmp_path / "effects", dict[str, str]()
    with ExitStack() as stack:
        processes = [Process(sql_url, file) for _ in range(3)]
        stack.callback(lambda: deque(map(Process.end, processes), 0))
        for _ in range(ROUNDS):
            for one in processes:
                kinds |= one.ask("submit", 3)
            number = rng.randrange(3)
            if how == "suspended":
                processes[number].suspend(9.0)
            else:
                processes[number].end(signal.SIGKILL if how == "killed" else signal.SIGTERM)
                processes[number] = Process(sql_url, file)
        ids = list(kinds)
        assert all(one.ask("settle", ids, 120.0) for one in processes)
        said = [one.ask("look", ids) for one in processes]
    record_property("ids", len(ids))
    record_property("ends", dict(Counter(said[0].values())))
    assert faults(kinds, said, file.read_text("utf-8")) == {}
