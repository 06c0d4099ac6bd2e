"""What tests of modelled locks share."""

from __future__ import annotations

from collections.abc import Callable

from framework import current_task
from pytest_asyncframe._explore.locks.model import ModelLock, ModelRLock
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.schedule import Default, Step
from pytest_asyncframe._turns.choices import RandomChooser
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import one_run


class Drawn:
    """Chooses evenly among all options; see `Strategy`."""

    def __init__(self, seed: int) -> None:
        self._chooser = RandomChooser(seed)

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        return self._chooser.choose(step.kind, step.what, step.options, step.preempts)


def pause() -> None:
    """Pass a point of level "framework"."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5)


def in_a_run(body: Callable[[Probe], object], level: Level = "framework") -> None:
    """Run *body* once with the default schedule."""
    one_run(body, Default(), level)


def is_modelled(lock: object) -> bool:
    """Whether a lock is a model, which says of itself that it is a real one."""
    return type(lock) in (ModelLock, ModelRLock)
