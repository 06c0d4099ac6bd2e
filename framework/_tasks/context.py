"""The two context variables: which framework is meant here, and which task runs here.

Both hold objects of higher layers; they stand here so that every layer can read them.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framework._tasks.records import TaskRecord

current_home: ContextVar[Any | None] = ContextVar("asyncframe_home", default=None)
"""The ``ledger.Home`` of the app whose request or task runs here, else None."""

current_record: ContextVar[TaskRecord | None] = ContextVar("asyncframe_task", default=None)
"""The live record of the task that runs here, else None."""
