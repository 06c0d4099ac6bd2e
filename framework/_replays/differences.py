"""Differences: where a replay leads elsewhere than the records of its task, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from framework._records.jsonsafe import safe_str
from framework._records.steps import Path, StepRecord, said

DifferenceKind: TypeAlias = Literal[
    "new", "refused", "left out", "raised", "stuck", "arguments", "gone", "not resumed"
]
"""What kind of a difference it is; see `Difference`."""

_SHOWN: Final = 5
"""How many steps a sentence names."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call of a step that no record answers.

    Attributes:
        function: The step's name in its record.
        call: The call, as people write it.
        at: The line that calls it; "" if unknown.
        branch: The asyncio task that calls it.
    """

    function: str
    call: str
    at: str
    branch: Path

    def __str__(self) -> str:
        at = f" at {self.at}" if self.at else ""
        return f"{self.call}{at}{_in_branch(self.branch)}"


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the code of a task leads elsewhere than its records.

    Attributes:
        kind: ``new``: it calls a step of which there is no record, although there is one of what
            comes later. ``refused``: it calls a step with other arguments than the record has.
            ``left out``: it does not call a step that is recorded. ``raised``: its own code raises
            an error. ``stuck``: its own code waits, so nobody knows how it goes on.
            ``arguments``: it cannot be called with the arguments of the task. ``gone``: there is
            no such function. ``not resumed``: the function does not go on from its steps.
        step: The name of the step that is called or left out; "" for none.
        what: What is found, as a sentence without its subject, which is the task.
        cure: What comes of it, and what to do.
    """

    kind: DifferenceKind
    step: str
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}; {self.cure}"


_SAME_CODE: Final = (
    "the code between the steps must take the same way each time: let what it reads, such as the "
    "time, chance or what is left to do, come from a step"
)


def new(asked: Asked, left: Sequence[StepRecord], *, is_changed: bool) -> Difference:
    """Return that a step is called that is not recorded.

    Args:
        asked: The call.
        left: What is recorded and was not called before.
        is_changed: Whether the code is not that of the records.
    """
    what = f"calls {asked}, of which there is no record"
    if left:
        what += f"; what is recorded and not called before: {_names(left)}"
    cure = (
        "it would run now, after all that is recorded, and what is not called any more stays done. "
        "With another name, or in another module, a step is another one and runs again: keep the "
        "old one until such tasks have ended"
    )
    moved = [one.function for one in left if _has_moved(one.function, asked.function)]
    if moved:
        cure = (
            f"it has the name of {moved[0]} in another module, and so it is another step and would "
            "run again: let the app be imported by one name wherever it runs, or keep the old one "
            "until such tasks have ended"
        )
    elif not is_changed:
        cure = _SAME_CODE
    return Difference("new", asked.function, what, cure)


def _has_moved(recorded: str, called: str) -> bool:
    """Return whether a step is another one only by the name of its module."""
    same = recorded.rpartition(".")[2] == called.rpartition(".")[2]
    return same and recorded != called


def refused(asked: Asked) -> Difference:
    """Return that a step is called with other arguments than the record has."""
    what = f"calls {asked}, and {asked.function} is recorded with other arguments"
    cure = (
        "it would end with StepMismatchError: make what is new in each run, such as an id or the "
        "time, in a step of its own, and read what a loop goes over in one; or say with key= of "
        "the step what its work is"
    )
    return Difference("refused", asked.function, what, cure)


def left_out(left: Sequence[StepRecord], *, is_changed: bool) -> Difference:
    """Return that recorded steps are not called; see `new`."""
    cure = (
        "what these did stays done, and their results are not used: leave them in the code until "
        "such tasks have ended, or make up for them"
    )
    what = f"does not call what is recorded: {_names(left)}"
    return Difference("left out", left[0].function, what, cure if is_changed else _SAME_CODE)


def raised(error: BaseException, at: str) -> Difference:
    """Return that the code between the steps raises an error."""
    text = safe_str(error, 200)
    what = f"raises {type(error).__name__}{f': {text}' if text else ''}{f' at {at}' if at else ''}"
    cure = (
        "the code between the steps runs again whenever the task goes on: what it reads must be "
        "there then, or come from a step"
    )
    return Difference("raised", "", what, cure)


def stuck(at: str, seconds: float | None) -> Difference:
    """Return that the code between the steps waits, for longer than *seconds* if that is known."""
    for_how_long = "for ever" if seconds is None else f"for longer than {seconds:g} s"
    what = f"waits {for_how_long} outside of its steps{f', at {at}' if at else ''}"
    cure = "how it goes on is not known: what it waits for belongs into a step"
    return Difference("stuck", "", what, cure)


def unfit(error: BaseException) -> Difference:
    """Return that the function cannot be called with the arguments of the task."""
    cure = (
        "it would end FAILED: give a new parameter a default, and let a parameter take what it "
        "took before"
    )
    return Difference("arguments", "", f"cannot be called: {safe_str(error, 500)}", cure)


def gone(name: str, like: str) -> Difference:
    """Return that there is no function of this name; *like* is the end that names a similar one."""
    cure = (
        "it would wait for a process that has it: keep the function, or its name by "
        f"@background_task(name={name!r}), until such tasks have ended"
    )
    what = f"has no function any more: the app has none named {name}{like}"
    return Difference("gone", "", what, cure)


def not_resumed(option: str) -> Difference:
    """Return that the function does not go on from its steps any more."""
    what = f'has a function with on_restart="{option}" now, and not "resume"'
    cure = (
        "what is recorded of its steps would not be used, and all of them would run again: leave "
        "the option as it was until such tasks have ended"
    )
    return Difference("not resumed", "", what, cure)


def _names(records: Sequence[StepRecord]) -> str:
    names = list(dict.fromkeys(f"{said(one.function)}{_in_branch(one.path)}" for one in records))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _in_branch(path: Path) -> str:
    return f" in branch {'.'.join(map(str, path))}" if path else ""
