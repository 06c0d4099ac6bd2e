"""Owners: whom a task belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from framework._manager.submitting.partner import Joined, Partner
from framework._records import checks
from framework._tasks.current import hook_owner
from framework._tasks.live import LiveTask, current_record


class Owners(Partner):
    """Makes tasks belong to somebody.

    Args:
        joined: The partners of all submissions.

    Attributes:
        whose: Says whom a task belongs to that is submitted outside of tasks; None to ask nobody.
    """

    options: ClassVar[tuple[str, ...]] = ("owner",)
    in_place = True

    def __init__(self, joined: Joined) -> None:
        self._joined = joined
        self.whose: Callable[[], str | None] | None = None

    def own_by(self, whose: Callable[[], str | None] | None) -> None:
        """Ask *whose* from now on whom a task belongs to that is submitted outside of tasks.

        Args:
            whose: Called at each such submission, where it is made, on any thread or loop. It
                returns 1 to 255 printable characters, or None for no owner. What it raises reaches
                the caller, and the task is not submitted. None to ask nobody.
        """
        self.whose = whose
        if whose is not None:
            self.expect()

    def give(self, task: LiveTask, owner: str | None) -> None:
        """Make a task belong to *owner* before it is added; those that it submits will, too."""
        if owner is not None:
            task.owner = owner
            self.expect()

    def expect(self) -> None:
        """Give tasks owners from now on; submissions before pay nothing for it."""
        self._joined.join(self)

    def make(self, task: LiveTask) -> None:
        """Make a task belong to whom its options name, or to its submitter's or request's owner."""
        if task.rest is not None and task.run_again_of:
            return
        owner = task.spec.options["owner"]
        if owner is not None:
            self.give(task, owner)
        elif (found := self.here()) is not None:
            task.owner = found

    def here(self) -> str | None:
        """Return the owner of a task that is submitted here; None for no owner."""
        hook, submitter = hook_owner.get(), current_record.get()
        if hook is not None:
            return hook[0]
        if submitter is not None:
            return submitter.owner
        if self.whose is None:
            return None
        return checks.owner("the owner of the request", self.whose())
