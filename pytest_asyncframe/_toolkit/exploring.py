"""What a toolkit needs of the exploration of its test; imports nothing at run time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    import pytest

    from framework import TaskManager
    from pytest_asyncframe._seen.recorder import Recorder
    from pytest_asyncframe._turns.choices import Chooser
    from pytest_asyncframe.clock import VirtualClock
    from pytest_asyncframe.clock._blocked import BlockedLoops


class Explored(Protocol):
    """The parts of a test that an exploration watches; made by its toolkit.

    Attributes:
        recorder: Keeps what happens in the test.
        blocked: The calls that blocked an event loop.
        manager: The manager of the test.
    """

    recorder: Recorder
    blocked: BlockedLoops

    @property
    def manager(self) -> TaskManager: ...

    def require_clock(self, name: str) -> VirtualClock:
        """Return the virtual clock; RuntimeError that says *name* if time is real."""
        ...


class Exploration(Protocol):
    """One run of a test that is run under many schedules.

    Attributes:
        chooser: Decides what comes next in this run.
        seed: Seed of jitter, the same in all runs of the test.
        start: Date and time at second 0 of virtual time, if the test sets none; aware.
    """

    @property
    def chooser(self) -> Chooser: ...
    @property
    def seed(self) -> int: ...
    @property
    def start(self) -> datetime: ...

    def new_id(self) -> str:
        """Return the id of the next task."""
        ...

    def installed(self, explored: Explored) -> AbstractContextManager[object]:
        """Install what makes this run like all others, and its points, inside the block.

        Entered on the thread of the test when all parts of *explored* exist, and left before
        the first of them ends.
        """
        ...


class ReportedRun(Exploration, Protocol):
    """One run of such a test by pytest."""

    def end(self) -> None:
        """Free what the run has left behind; called when all parts of it have ended.

        Raises:
            Exception: What pytest makes of an error that nobody could raise, if warnings are
                errors.
        """
        ...

    def reported(self, report: pytest.TestReport) -> pytest.TestReport:
        """Return the report that users see, given that of a phase of the test."""
        ...
