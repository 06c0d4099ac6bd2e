"""Kinds of arguments: which types a task may not be given, and what to pass instead.

FastAPI and Starlette are not imported: classes are known by their names.
"""

from __future__ import annotations

import enum
import types
from dataclasses import is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

from framework._records.ids import TaskId

_PLAIN: Final = (
    *(str, int, float, complex, bool, bytes, type(None), type(Ellipsis), TaskId),
    *(date, datetime, time, timedelta, Decimal, UUID),
)

PLAIN: Final[frozenset[type]] = frozenset(_PLAIN)
"""Types whose values never belong to a request, however they came into it."""


class Refused(NamedTuple):
    """Why values of a type are refused.

    Attributes:
        what: What such a value is, with its article.
        cure: What to do instead.
        why: What becomes of it.
    """

    what: str
    cure: str
    why: str = "it is closed when the request ends, perhaps before the task runs"


_AFTER_RESPONSE: Final = "when the response is sent, perhaps before the task does"
_FURTHER_TASKS: Final = "pass plain values, and let the task submit further tasks"

_REFUSED: Final = {
    "starlette.datastructures.UploadFile": Refused(
        "an UploadFile",
        "read it first and pass the bytes, await file.read(), or pass the path of a copy",
    ),
    "starlette.datastructures.FormData": Refused(
        "a form", "pass its values, and read its files first: await file.read()"
    ),
    "starlette.websockets.WebSocket": Refused(
        "a WebSocket",
        "use it in the route alone, which can await get_result(task_id) and send the result",
        "it is closed when its route ends, perhaps before the task runs",
    ),
    "starlette.requests.Request": Refused(
        "a Request",
        "pass what the task needs of it, such as str(request.url), a header or await "
        "request.json()",
    ),
    "starlette.requests.HTTPConnection": Refused(
        "an HTTPConnection",
        "pass what the task needs of it, such as str(connection.url) or a header",
    ),
    "starlette.responses.Response": Refused(
        "a Response",
        "set its headers and cookies in the route, and pass plain values to the task",
        "it is sent when the route ends, perhaps before the task runs",
    ),
    "starlette.background.BackgroundTask": Refused(
        "a BackgroundTask", _FURTHER_TASKS, f"it runs {_AFTER_RESPONSE}"
    ),
    "starlette.background.BackgroundTasks": Refused(
        "BackgroundTasks", _FURTHER_TASKS, f"they run {_AFTER_RESPONSE}"
    ),
    "fastapi.params.Depends": Refused(
        "an unresolved Depends(...)",
        "leave the argument out if the task declares the dependency, or pass the value itself",
        "FastAPI resolves it for routes and for parameters of tasks, not for arguments",
    ),
}
"""The refused classes, by module and name; subclasses are refused with them."""


@lru_cache(maxsize=1_024)
def refused(kind: Any) -> Refused | None:
    """Return why values of a type are refused; None if they are not."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__)
    return next((_REFUSED[name] for name in names if name in _REFUSED), None)


@lru_cache(maxsize=1_024)
def is_data(kind: Any) -> bool:
    """Return whether values of a type are data, which nobody can close, or part of a module."""
    if issubclass(kind, (*_PLAIN, *_DATA)) or is_dataclass(kind):
        return True
    # Models of pydantic and of attrs.
    return hasattr(kind, "__pydantic_fields__") or hasattr(kind, "__attrs_attrs__")


_DATA: Final = (
    *(list, tuple, dict, set, frozenset, bytearray),
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, enum.Enum),
)

_ENDINGS: Final = ("close", "aclose", "__exit__", "__aexit__")


def can_be_closed(value: Any) -> bool:  # Any: of any type
    """Return whether a value has a method that closes it."""
    return any(hasattr(type(value), name) for name in _ENDINGS)
