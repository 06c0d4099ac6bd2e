"""Headings: whom a task belongs to, and what it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final  # what a user's function returns

from framework._manager.submitting.partner import Joined, Partner
from framework._records import checks
from framework._records.about.arguments import arguments_text
from framework._records.about.meta import meta_text
from framework._records.jsonsafe import safe_str
from framework._tasks.current import hook_owner
from framework._tasks.functions import (
    arguments_by_name,
    check_key,
    check_parameters,
    name_of,
    signature_of,
)
from framework._tasks.live import LiveTask, current_record
from framework._tasks.options import label_text


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


class Descriptions(Partner):
    """Gives tasks what their options make of the arguments: label, meta, and what is shown of them.

    A label or meta that is no function is part of a spec's heading, and needs nobody.

    Args:
        joined: The partners of all submissions.
    """

    options: ClassVar[tuple[str, ...]] = ("label", "meta", "show_arguments")
    in_place = True

    def __init__(self, joined: Joined) -> None:
        self._joined = joined
        self._shows = False

    def show_arguments(self, shows: bool) -> None:
        """Show the arguments of tasks whose options do not say it from now on, or hide them."""
        self._shows = shows
        if shows:
            self._joined.join(self)

    def make(self, task: LiveTask) -> None:
        """Find out what a new task is about; calls the user's functions.

        Raises:
            TypeError: If a function cannot take the arguments, or returns what is none.
            ValueError: If it raises an error, or returns what is out of range.
        """
        # It has that of the task that it repeats.
        if task.rest is not None and task.run_again_of:
            return
        given = task.spec.options
        shown = given["show_arguments"]
        task.describe(
            _made("label", given["label"], task, _label),
            _made("meta", given["meta"], task, meta_text),
            _arguments(self._shows if shown is None else shown, task),
        )


def _arguments(shown: object, task: LiveTask) -> str | None:
    """Return what people see of the arguments; None for nothing.

    Raises:
        ValueError: If a name is no parameter.
    """
    if not shown:
        return None
    fn, names = task.spec.fn, shown if isinstance(shown, tuple) else None
    # A submission's own names have not been checked before.
    check_parameters("show_arguments", shown, fn)
    return arguments_text(arguments_by_name(fn, task.args or (), task.kwargs or {}, names))


def _cure_of(given: Callable[..., object], task: LiveTask) -> str:
    """Return how to mend a function that does not take the arguments of this call; else ""."""
    takes = signature_of(given)
    try:
        if takes is not None:
            takes.bind(*(task.args or ()), **(task.kwargs or {}))
    except TypeError:
        return "; give those of its parameters a default that a call may leave out"
    return ""


def _made(
    option: str, given: Any, task: LiveTask, check: Callable[[str, object], str | None]
) -> str | None:
    """Return the text of an option that may be a function of the arguments."""
    if not callable(given):
        text: str | None = given
        return text
    fn = task.spec.fn
    try:
        found = given(*(task.args or ()), **(task.kwargs or {}))
    except Exception as error:
        # A submission's own function has not been checked before.
        check_key(option, given, fn)
        raise ValueError(
            f"the {option} function of {name_of(fn)} raised {type(error).__name__}: "
            f"{safe_str(error, _SHOWN)}; the task was not submitted{_cure_of(given, task)}"
        ) from error
    try:
        return None if found is None else check(option, found)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"the {option} function of {name_of(fn)} returned a wrong value: {error}; the task was "
            "not submitted"
        ) from None


def _label(option: str, found: object) -> str | None:
    if not isinstance(found, str):
        raise TypeError(f"{option} must be a string or None, not {checks.show(found)}")
    return label_text(found)


_SHOWN: Final = 200
"""How many characters of the error a message has."""
