"""The places and news that all processes share through an open `CeleryEngine`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from framework.protocols import PlaceAnswer, PlaceRequest


class Sharing:
    """Places and news of all processes that use the same Redis and namespace.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Any) -> None:  # Any: its module imports this one
        self._engine = engine

    # -- protocols.NewsDirectory

    def watch(self, told: Callable[[Collection[str] | None], object], /) -> Callable[[], object]:
        """Call *told* with the ids of all tasks that workers report on; blocks."""
        session = self._engine.session
        return bool if session is None else session.watch(told)

    # -- protocols.SharedPlaces

    def join(self, request: PlaceRequest, told: Callable[[PlaceAnswer], object]) -> None:
        """Ask for a place that all processes share; see `protocols.SharedPlaces`."""
        session = self._engine.session
        if session is None:
            raise RuntimeError("the engine is not open")
        session.lines.join(request, told)

    def leave(self, task_id: str) -> None:
        """Give back a task's places."""
        session = self._engine.session
        if session is not None:
            session.lines.leave(task_id)
