"""Scene: what is needed besides a task's record to say why it waits.

Guarantees: nothing here blocks, and no task pays for it until somebody asks.
Lock order: none is held here.
"""

from __future__ import annotations

from framework._records.records import Kind, TaskRecord
from framework._records.statuses import PENDING
from framework._running.ledger import Ledger
from framework._tasks import registry
from framework._tasks.live import LiveTask
from framework._threads.queue.levels import level_of
from framework.engines.local import LocalEngine
from framework.protocols import TaskEngine


class LiveScene:
    """The scene of one manager's tasks; see `reasons.Scene`.

    Args:
        ledger: Knows the live tasks.
        engine: Has the queue in which tasks wait for a thread.
    """

    def __init__(self, ledger: Ledger, engine: TaskEngine) -> None:
        self._ledger = ledger
        self._engine = engine
        self.monotonic = ledger.clock.monotonic

    def kind(self, record: TaskRecord) -> Kind | None:
        """Return where the task's function runs; None if it is not known here."""
        task = self._ledger.find_live(record.task_id)
        spec = registry.find_spec(record.name) if task is None else task.spec
        return None if spec is None else spec.kind

    def queued(self, record: TaskRecord) -> str:
        """Return where a PENDING task waits, and its position in the queue if that is shown."""
        task = self._ledger.find_live(record.task_id)
        if task is None:
            return "queued in another process" if self._ledger.shared is not None else "queued"
        if task.remote:
            return "queued for a worker"
        if task.spec.kind == "loop":
            return "queued; it starts when its event loop turns"
        return self._here(task)

    def of_an_owner(self) -> LiveScene:
        """Return the same scene for somebody who must not know how many tasks others have."""
        return OwnersScene(self._ledger, self._engine)

    def _here(self, task: LiveTask) -> str:
        """Return the position of a task that waits for a thread; looks at the whole queue."""
        place = self._place(task)
        if place is None:
            return "queued; its turn has just come"
        number, among = place
        return f"queued {_ordinal(number)} of {among:,}"

    def _place(self, task: LiveTask) -> tuple[int, int] | None:
        if type(self._engine) is LocalEngine:
            return self._engine.place_of(task)
        held = self._held()
        return (held.index(task) + 1, len(held)) if task in held else None

    def _waiting(self) -> int:
        """Return how many tasks wait for a thread."""
        if type(self._engine) is LocalEngine:
            return self._engine.queued
        return len(self._held())

    def _held(self) -> list[LiveTask]:
        # Of another engine, such as that of a test, only the priorities are known.
        held = [one for one in self._ledger.unfinished() if _waits(one)]
        return sorted(held, key=level_of)


class ListScene(LiveScene):
    """A scene for many tasks at once: the queue is counted once, without positions."""

    def __init__(self, ledger: Ledger, engine: TaskEngine) -> None:
        super().__init__(ledger, engine)
        self._count: int | None = None

    def _here(self, _: LiveTask) -> str:
        """Return how many tasks wait for a thread."""
        if self._count is None:
            self._count = self._waiting()
        return f"queued, one of {max(self._count, 1):,}"


class OwnersScene(LiveScene):
    """A scene without positions, which would tell how many tasks others have."""

    def _here(self, _: LiveTask) -> str:
        """Return that a task waits."""
        return "queued"


def _waits(task: LiveTask) -> bool:
    """Return whether a task waits for a thread, and for nothing else."""
    return (
        task.status is PENDING
        and task.spec.kind == "thread"
        and not task.remote
        and not task.reason
    )


def _ordinal(number: int) -> str:
    """Return "1st", "2nd", "3rd", "11th" and so on."""
    ending = "th" if number % 100 in (11, 12, 13) else _ENDINGS.get(number % 10, "th")
    return f"{number:,}{ending}"


_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
