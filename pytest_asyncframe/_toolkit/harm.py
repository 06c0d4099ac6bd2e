"""What a test lets go wrong: faults of tasks, and crashes of the process that runs its apps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from pytest_asyncframe._toolkit.toolkit import Process, Toolkit
from pytest_asyncframe.faults import FaultPlan


class Harm:
    """Lets tasks fail and the process crash, and tells where it has.

    Args:
        toolkit: The parts of the test.
    """

    def __init__(self, toolkit: Toolkit) -> None:
        self._toolkit = toolkit

    @property
    def faults(self) -> FaultPlan:
        """The fault plan of the test, also known as the fixture ``task_faults``."""
        return self._toolkit.faults

    @property
    def crashes(self) -> Sequence[str]:
        """The points at which the process has died so far; () without ``crash_points``."""
        process = self._toolkit.process
        return () if process is None else tuple(process.died_at)

    def crash(self) -> None:
        """Let the process of the apps die now, as by ``kill -9``; another one begins.

        Call it on the thread of the test, which is marked with ``crash_points``.

        Raises:
            RuntimeError: If it is not marked so.
        """
        self._process("crash()").crash()

    def no_crashes(self) -> AbstractContextManager[None]:
        """Let the process die nowhere inside the block, and count no points, as for a set-up.

        Without ``crash_points`` it does nothing.
        """
        process = self._toolkit.process
        return nullcontext() if process is None else process.unseen()

    def _process(self, name: str) -> Process:
        process = self._toolkit.process
        if process is None:
            raise RuntimeError(
                f"asyncframe.{name} needs a process that may die: mark the test with "
                "@pytest.mark.crash_points"
            )
        return process
