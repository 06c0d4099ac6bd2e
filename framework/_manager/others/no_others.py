"""No others: what is asked where no other process can have tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, Literal, TypeAlias

from framework._manager.others.other_processes import OtherProcesses
from framework._records.records import TaskRecord


class NoOthers:
    """Takes the place of `OtherProcesses`: what this process does not know is unknown.

    No part is shared then, so what it is given to call does not block, and is called at once.

    Attributes:
        exist: Whether other processes can have tasks.
    """

    exist: Literal[False] = False

    async def find(
        self,
        task_id: str,
        *,
        patient: bool = True,
        sees: Callable[[TaskRecord], bool] | None = None,
    ) -> TaskRecord | None:
        """Return None: the task is unknown."""
        return None

    async def until_final(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """Return None: the task is unknown."""
        return None

    def block_until_final(self, task_id: str, timeout: float | None) -> TaskRecord | None:
        """Return None: the task is unknown."""
        return None

    async def call(self, call: Callable[[], Any]) -> Any:
        """Call *call* and return its result."""
        return call()

    async def cancel(self, task_id: str) -> bool:
        """Return False: the task is unknown."""
        return False

    def post(self, call: Callable[[], Any]) -> None:
        """Call *call*."""
        call()

    def when_known(self, task_id: str, call: Callable[[], object]) -> None:
        """Call *call*: the task is surely unknown."""
        call()

    def post_cancel(self, task_id: str) -> None:
        """Do nothing: the task is unknown."""

    def changed(self, task_ids: Collection[str] | None) -> None:
        """Do nothing: nobody waits for that."""

    def close(self) -> None:
        """Do nothing."""


NO_OTHERS: Final = NoOthers()

Others: TypeAlias = OtherProcesses | NoOthers
"""Whom to ask about tasks that this process does not know."""
