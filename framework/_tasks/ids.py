"""Task ids: 128 random bits, which nobody can guess and no two processes share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

T_co = TypeVar("T_co", covariant=True)


class TaskId(str, Generic[T_co]):
    """A task's id: a ``str`` that tells type checkers the type of the result."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(
        cls,
        source: Any,
        handler: GetCoreSchemaHandler,  # Any: pydantic's own signature
    ) -> CoreSchema:
        """Describe the id to pydantic, and so to FastAPI and OpenAPI, as a string."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


def explain_await(error: BaseException) -> None:
    """Say in a note what to await, if *error* comes of awaiting an id.

    An id that could be awaited, to raise a better error by itself, would be awaited by
    templates, GraphQL servers and others that await whatever they can.
    """
    if type(error) is not TypeError or hasattr(error, "__notes__"):
        return
    text = str(error)
    if "TaskId" in text and "await" in text:
        error.add_note(
            "a background task gives its id at once, without 'await': wait for the result with "
            "'await get_task_manager().get_result(task_id)', or decorate it with async_task"
        )


_BATCH: Final = 256
_BYTES: Final = 16

_SPARE: list[TaskId[Any]] = []


def random_id() -> TaskId[Any]:
    """Return 32 hexadecimal digits from the operating system's generator; any thread.

    Read in batches: the system call lets go of the interpreter, and a thread that submits
    while others work would wait for its turn after each.
    """
    try:
        return _SPARE.pop()
    except IndexError:
        digits = os.urandom(_BYTES * _BATCH).hex(" ", _BYTES)
        fresh: list[TaskId[Any]] = list(map(TaskId, digits.split(" ")))
        found = fresh.pop()
        _SPARE.extend(fresh)
        return found


# A forked child must not go on with what its parent will hand out.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SPARE.clear)
