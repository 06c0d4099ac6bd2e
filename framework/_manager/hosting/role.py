"""The role of a process: what a program that runs an app changes in its framework."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

from framework._manager.core import Parts
from framework._manager.settings import Settings
from framework.protocols import TaskStore


@dataclass(frozen=True, slots=True)
class WorkerRole:
    """A process that only works.

    Attributes:
        max_workers: How many threads run at once, 1 or more; None for what the app says, or for
            the default if the app says 0.
        only: The names of the functions whose tasks and schedules it runs; None for all.
        store: Whose tasks it runs, in place of the app's own store and engine; None for these.
    """

    max_workers: int | None = None
    only: frozenset[str] | None = None
    store: TaskStore | None = None

    def applied(self, settings: Settings) -> Settings:
        """Return the settings of an app, as this process uses them."""
        workers = self.max_workers or settings.max_workers or None
        return replace(settings, max_workers=workers, only=self.only, role="worker")

    def equipped(self, parts: Parts) -> Parts:
        """Return the parts of an app, as this process uses them."""
        return parts if self.store is None else replace(parts, store=self.store, engine=None)


ROLE: Final[ContextVar[WorkerRole | None]] = ContextVar("asyncframe_role", default=None)
"""The role of the frameworks that are set up in this context; None for what their apps say."""


def in_role(parts: Parts, settings: Settings) -> tuple[Parts, Settings]:
    """Return the parts and the settings of an app, as this process uses them."""
    role = ROLE.get()
    return (parts, settings) if role is None else (role.equipped(parts), role.applied(settings))
