"""A store that other processes read, whose answers a test gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from framework._records.records import TaskRecord
from framework.protocols import StoreHost
from framework.stores.memory import MemoryStore


class Store(MemoryStore):
    """A shared store that leaves each answer to the test.

    Attributes:
        asked: What is to be told of each start, in their order.
        released: The records that belong to nobody.
        permits: Whether to permit every start at once.
    """

    durable = False

    def __init__(self, *, permits: bool = False) -> None:
        super().__init__()
        self.asked: list[Callable[[bool], None]] = []
        self.released: list[TaskRecord] = []
        self.permits = permits
        self.has_asked = threading.Event()

    def open(self, host: StoreHost) -> None:
        """Do nothing."""

    def close(self, patience: float) -> None:
        """Do nothing."""

    def note(self, record: TaskRecord) -> None:
        """Do nothing."""

    def secure(self, record: TaskRecord, told: Callable[[BaseException | None], None]) -> None:
        """Say that it is safe."""
        told(None)

    def settle(self, record: TaskRecord, result: Any) -> Any:
        """Return the result as it is."""
        return result

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Find nothing."""
        return []

    def is_alone(self) -> bool:
        """Let nobody look again for what was not found."""
        return True

    def doubt(self) -> None:
        """Have none."""

    def request_cancel(self, task_id: str) -> bool:
        """Find nothing."""
        return False

    def figures(self) -> dict[str, int]:
        """Count nothing."""
        return {}

    def start(self, record: TaskRecord, told: Callable[[bool], None]) -> None:
        """Keep the question for the test."""
        if self.permits:
            told(True)
            return
        self.asked.append(told)
        self.has_asked.set()

    def release(self, record: TaskRecord) -> None:
        """Keep the record for the test."""
        self.released.append(record)
