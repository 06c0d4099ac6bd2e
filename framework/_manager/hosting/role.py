"""The role of a process: what a program that runs an app changes in its framework."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

from framework._manager.settings import Settings


@dataclass(frozen=True, slots=True)
class WorkerRole:
    """A process that only works.

    Attributes:
        max_workers: How many threads run at once, 1 or more; None for what the app says, or for
            the default if the app says 0.
        only: The names of the functions whose tasks and schedules it runs; None for all.
    """

    max_workers: int | None = None
    only: frozenset[str] | None = None

    def applied(self, settings: Settings) -> Settings:
        """Return the settings of an app, as this process uses them."""
        workers = self.max_workers or settings.max_workers or None
        return replace(settings, max_workers=workers, only=self.only)


ROLE: Final[ContextVar[WorkerRole | None]] = ContextVar("asyncframe_role", default=None)
"""The role of the frameworks that are set up in this context; None for what their apps say."""
