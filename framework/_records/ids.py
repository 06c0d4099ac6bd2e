"""Task ids: 128 random bits, which cannot be guessed and are unique across processes."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

T_co = TypeVar("T_co", covariant=True)


class Accepted(Generic[T_co]):
    """What ``framework.http.Accepted[T]`` is to type checkers: an id, or a task.

    So a route with this return annotation may return either. At run time it is a pydantic model.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def __init__(self, task: Accepted[T_co], /) -> None: ...

        @overload
        def __init__(self: Accepted[Any], task: str, /) -> None: ...

        def __init__(self, task: object, /) -> None: ...


class TaskId(str, Accepted[T_co]):
    """A task's id: a ``str`` that tells type checkers the type of the result."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(
        cls,
        source: Any,
        handler: GetCoreSchemaHandler,  # Any: pydantic's own signature
    ) -> CoreSchema:
        """Describe the id as a string to pydantic, and so to FastAPI and OpenAPI."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


class ChildId(TaskId[Any]):
    """The id of a task that is submitted by the code of one that goes on; the same in each run.

    Attributes:
        may_be_stored: Whether an earlier run may have submitted it.
    """

    __slots__ = ("may_be_stored",)

    may_be_stored: bool

    def __new__(cls, task_id: str, *, may_be_stored: bool) -> Self:
        """Make it."""
        made = super().__new__(cls, task_id)
        made.may_be_stored = may_be_stored
        return made


class PledgedId(TaskId[Any]):
    """The id of a task that nobody can see before a transaction of its submitter has committed."""

    __slots__ = ()


_BATCH: Final = 256
_BYTES: Final = 16

_SPARE: list[TaskId[Any]] = []


def random_id() -> TaskId[Any]:
    """Return 32 hexadecimal digits from the operating system's generator; any thread.

    They are read in batches: the system call releases the GIL, and a submitting thread would
    wait to get it back after each call.
    """
    # No lock: pop and extend are atomic, so two threads that find it empty each add a batch.
    try:
        return _SPARE.pop()
    except IndexError:
        digits = os.urandom(_BYTES * _BATCH).hex(" ", _BYTES)
        fresh: list[TaskId[Any]] = list(map(TaskId, digits.split(" ")))
        found = fresh.pop()
        _SPARE.extend(fresh)
        return found


_DIGITS: Final = 2 * _BYTES
_NUMBER: Final = 8
"""How many digits of an id tell it from those of the same line; the first ones."""

_HEXADECIMAL: Final = frozenset("0123456789abcdef")

_STRIDE: Final = 0x9E3779B1
"""Odd, so that it passes all numbers; large, so that ids which follow each other look different."""


def line_of(task_id: str, *, goes_on: bool) -> str:
    """Return what the ids of a task, and of those that go on from it, have in common.

    Args:
        task_id: The id of one of them.
        goes_on: Whether it goes on from another one itself, so that `following` made its id.
    """
    return _made(task_id, goes_on)[_NUMBER:]


def following(task_id: str, *, goes_on: bool) -> TaskId[Any]:
    """Return the id of the task that goes on from another one; the same in every process.

    Args:
        task_id: The id of that one.
        goes_on: As above.
    """
    made = _made(task_id, goes_on)
    number = (int(made[:_NUMBER], 16) + _STRIDE) % 16**_NUMBER
    return TaskId(f"{number:0{_NUMBER}x}{made[_NUMBER:]}")


def _made(task_id: str, goes_on: bool) -> str:
    if goes_on and len(task_id) == _DIGITS and set(task_id) <= _HEXADECIMAL:
        return task_id
    # One that a user has chosen, or of which nobody knows how it was made.
    return hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


# A forked child must not use the ids that its parent will use.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SPARE.clear)
