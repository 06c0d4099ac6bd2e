"""What must not be said of tasks: answers of processes against what the functions have written.

No code of the product decides: a task is what its function wrote into a file of its own, see
``apps/crowded.py``. Who hurts a process writes into the same file: ``dead <pid>`` when it is gone,
``held <pid>`` before it stands still, and ``awake <pid>`` a moment after it has gone on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LIMITS = {"limited": 2, "late": 2, "returned": 1, "raised": 1, "replaced": 1}
"""How many of a kind may run at a time for each key."""

MAY_REPEAT = {"again", "retried"}
"""The kinds whose functions may begin more than once."""

MAY_BE_LOST = {"plain", "retried", "late"}
"""The kinds that may end with the process that accepted them, before they have begun as well."""

ENDS = {"failing": "failed", "retried": "failed", "late": "timeout"}
"""How the kinds end that do not end COMPLETED."""

UNSTARTED = "could not be started"
"""What is said of a task whose submission was refused, and what is wrong if none was."""

Answer = Sequence[Any]
"""Status, result, attempts and reason of a task."""


class Effects:
    """What the functions have done.

    Args:
        text: The file.

    Attributes:
        begun: The processes in which each id began, in order.
        ended: The processes in which each id ended.
        stopped: The processes in which each id ended by an error.
        kinds: The kind of each id that began.
        hurt: The processes that were killed or suspended.
        broken: How often there were more of each kind at a time than may be.
    """

    def __init__(self, text: str) -> None:
        self.begun: defaultdict[str, list[str]] = defaultdict(list)
        self.ended: defaultdict[str, list[str]] = defaultdict(list)
        self.stopped: defaultdict[str, list[str]] = defaultdict(list)
        self.kinds: dict[str, str] = {}
        self.hurt: set[str] = set()
        self.broken = Counter[str]()
        self._open: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._held: set[str] = set()
        for line in text.splitlines():
            word, *rest = line.split(" ", 3)
            if word in ("dead", "held", "awake"):
                self._hurt(word, *rest)
            else:
                self._noted(word, *rest)

    def _hurt(self, word: str, process: str) -> None:
        if word == "awake":
            self._held.discard(process)
            return
        self.hurt.add(process)
        # What it runs counts no more: others may begin before it has noticed.
        for running in self._open.values():
            for task_id in [one for one, where in running.items() if where == process]:
                del running[task_id]
        if word == "held":
            self._held.add(process)

    def _noted(self, word: str, task_id: str, process: str, slot: str) -> None:
        running, kind = self._open[slot], slot.split(" ", 1)[0]
        if word != "begin":
            running.pop(task_id, None)
            (self.ended if word == "end" else self.stopped)[task_id].append(process)
            return
        self.kinds[task_id] = kind
        self.begun[task_id].append(process)
        if process not in self._held:
            running[task_id] = process
            if len(running) > LIMITS.get(kind, len(running)):
                self.broken[kind] += 1

    def doubled(self, task_id: str, *, far: bool) -> bool:
        """Whether it began again although it may not.

        Args:
            task_id: A task that began.
            far: Whether it may begin again when its process is dead, or counts as dead.
        """
        if self.kinds[task_id] in MAY_REPEAT:
            return False
        *before, _ = self.begun[task_id]
        return bool(before) and not (far and self.hurt.issuperset(before))


def lies(
    accepted: Mapping[str, tuple[str, str]],
    said: Sequence[Mapping[str, Answer | None]],
    text: str,
    *,
    far: bool = False,
    kept: bool = True,
    asked: Mapping[str, str] | None = None,
    refused: Mapping[str, int] | None = None,
) -> Counter[str]:
    """Return how many ids there are for each thing that must not be, and each kind.

    Args:
        accepted: The kind of each id that was accepted, and the process that did so.
        said: What each process says of the ids.
        text: What the functions have written.
        far: Whether tasks run in other processes than those that accept them, which may begin
            them again when one has died, and never end them INTERRUPTED.
        kept: Whether tasks outlive the process that accepted them, if that runs them.
        asked: What came of the cancellations that were asked for.
        refused: How many submissions of each kind were refused. Others may have been given the id
            of such a task in place of one of their own, and find it FAILED.
    """
    effects, found = Effects(text), Counter[str]()
    for task_id, kind in effects.kinds.items():
        found[f"doubled: {kind}"] += effects.doubled(task_id, far=far)
    for kind, times in effects.broken.items():
        found[f"too many at a time: {kind}"] += times
    for task_id, (kind, home) in accepted.items():
        answers = [one[task_id] for one in said]
        known = [one for one in answers if one is not None]
        if len(known) < len(answers):
            found[f"unknown: {kind}"] += 1
        if not known:
            continue
        for number, what in enumerate(("said differently", "other results", "other attempts")):
            found[f"{what}: {kind}"] += any(one[number] != known[0][number] for one in known)
        outcome = (asked or {}).get(task_id)
        lost = not far and home in effects.hurt and (kind in MAY_BE_LOST or not kept)
        one = _Case(task_id, kind, effects, outcome, far, lost)
        for what in sorted({what for answer in known for what in one.wrong(*answer)}):
            found[f"{what}: {kind}"] += 1
    for kind, times in (refused or {}).items():
        found[f"{UNSTARTED}: {kind}"] -= times
    return +found


@dataclass(frozen=True)
class _Case:
    """One id.

    Attributes:
        task_id: The id.
        kind: Its kind.
        effects: What the functions have done.
        outcome: What came of a cancellation; None if nobody asked for one.
        far: Whether it runs on a worker.
        lost: Whether it may have been lost with its process.
    """

    task_id: str
    kind: str
    effects: Effects
    outcome: str | None
    far: bool
    lost: bool

    def wrong(self, status: str, result: Any, attempts: int, reason: str) -> Iterator[str]:
        """Yield what is wrong with what a process says."""
        if status in ("pending", "running"):
            yield "never ended"
        elif status == "completed":
            yield from self._completed(result)
        elif status == "interrupted":
            yield from self._interrupted()
        elif status == "cancelled":
            yield from self._cancelled(reason)
        else:
            yield from self._failed(status, reason)
        if self.outcome == "cancelled" and status != "cancelled":
            yield "cancelled, and then not"

    @property
    def _ran_hurt(self) -> bool:
        return not self.effects.hurt.isdisjoint(self.effects.begun[self.task_id])

    def _completed(self, result: Any) -> Iterator[str]:
        if not self.effects.ended[self.task_id]:
            yield "completed without an end"
        elif result != self.task_id:
            yield "wrong result"

    def _interrupted(self) -> Iterator[str]:
        unbegun = not self.effects.begun[self.task_id]
        if self.far or not (self._ran_hurt or (self.lost and unbegun)):
            yield "interrupted without a cause"

    def _cancelled(self, reason: str) -> Iterator[str]:
        if self.outcome is None and self.kind != "replaced" and not self.lost:
            yield "cancelled without a cause"
        if self.effects.begun[self.task_id] and "before it started" in reason:
            yield "cancelled before it started, and begun"
        if not self.effects.hurt.issuperset(self.effects.ended[self.task_id]):
            yield "cancelled, and ended"

    def _failed(self, status: str, reason: str) -> Iterator[str]:
        if UNSTARTED in reason and not self.effects.begun[self.task_id]:
            yield UNSTARTED
        elif status != ENDS.get(self.kind) and not (status == "timeout" and self._ran_hurt):
            yield f"{status} without a cause"
        elif status == "failed" and not self.effects.stopped[self.task_id]:
            yield "failed without an error"
