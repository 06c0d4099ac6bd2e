"""What forces the order of a race: a clock beside the threads, turnstiles, held bodies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from framework import (
    TaskManager,
    TaskStatus,
)
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import VirtualClock
from tests.patience import PATIENCE

FINAL = {"completed", "failed", "timed_out", "cancelled", "interrupted"}


class RacingClock(VirtualClock):
    """A clock beside the production pool: it fires while threads work, so that they race.

    Attributes:
        held: How many calls of `hold` have not been given back.
    """

    def __init__(self) -> None:
        super().__init__(Sequencer())
        self._changed = threading.Condition()
        self.held = 0

    def hold(self) -> None:
        """Count one piece of work that is about to be queued."""
        with self._changed:
            self.held += 1

    def release(self) -> None:
        """Count one piece of work as done."""
        with self._changed:
            self.held -= 1
            self._changed.notify_all()

    def wait_until_released(self) -> None:
        """Block until everything that was queued has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.held == 0, PATIENCE)


class Turnstile:
    """Stands before a method: a call that `concerns` it says so and waits to be let in."""

    def __init__(
        self, target: Any, name: str, concerns: Callable[..., bool] = lambda *_, **__: True
    ) -> None:
        self.arrived = threading.Event()
        self.open = threading.Event()
        self.passed = threading.Event()
        self._method = getattr(target, name)
        self._concerns = concerns
        setattr(target, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method, when the way is open."""
        if not self._concerns(*args, **kwargs):
            return self._method(*args, **kwargs)
        self.arrived.set()
        assert self.open.wait(PATIENCE)
        try:
            return self._method(*args, **kwargs)
        finally:
            self.passed.set()

    def await_arrival(self) -> None:
        """Block until a call stands before the turnstile."""
        assert self.arrived.wait(PATIENCE)

    def let_in(self) -> None:
        """Let every call in, and wait until one is through."""
        self.open.set()
        assert self.passed.wait(PATIENCE)


class Body:
    """A task's function that runs until it is let go."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.gate = threading.Event()
        self.runs = 0
        self.thread = 0

    def __call__(self) -> str:
        """Say that it runs, and wait."""
        self.runs += 1
        self.thread = threading.get_ident()
        self.started.set()
        assert self.gate.wait(PATIENCE)
        return "result"


def ends_of(manager: TaskManager) -> list[str]:
    """Return a list that fills with the kinds of final events."""
    ends: list[str] = []
    manager.subscribe(lambda event: ends.append(event.kind) if event.kind in FINAL else None)
    return ends


def heard(manager: TaskManager, kind: str) -> threading.Event:
    """Return an event that is set when the manager tells of *kind*."""
    told = threading.Event()
    manager.subscribe(lambda event: told.set() if event.kind == kind else None)
    return told


def status_of(manager: TaskManager, task_id: str) -> TaskStatus:
    """Return a task's status, from any thread."""
    return TaskStatus(str(manager.get_all_tasks()[task_id]["status"]))


def cancel(manager: TaskManager, task_id: str) -> bool:
    """Cancel a task from a thread without a loop."""
    return asyncio.run(manager.cancel_task(task_id))
