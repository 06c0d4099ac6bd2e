"""Errors as JSON text: of the class, the message, and what it was made of.

Guarantees: nothing is ever pickled, and nothing is imported. Decoding runs only code of exception
classes that are already imported.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any, Final

from framework._records.jsonsafe import safe_repr, safe_str
from framework._records.records import TaskRecord
from framework._records.statuses import TIMEOUT, TRAITS, TaskStatus
from framework.exceptions import RemoteTaskError, TaskTimeoutError

_MAX_ERROR_ARGUMENTS: Final = 8_192
_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode


def encode_error(error: BaseException) -> str:
    """Encode an error as JSON text: its class, its message, and its parts if they fit.

    The parts are the arguments and attributes from which `decode_error` builds it again.
    """
    cls = type(error)
    data = {
        "type": [cls.__module__, cls.__qualname__],
        "text": safe_str(error),
        "parts": _error_parts(error),
    }
    return _to_json(data)


def decode_error(text: str) -> BaseException:
    """Return the error in *text*, from `encode_error`.

    It has its own class if that class is already imported in this process and gives the same
    message when it is built from the same parts. Otherwise it is a `RemoteTaskError`.

    Raises:
        ValueError: If the text is not an error.
    """
    data = json.loads(text)
    try:
        (module, qualname), message, parts = data["type"], data["text"], data["parts"]
        remote = RemoteTaskError(f"{module}.{qualname}", message)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not an error in JSON: {safe_repr(text)}") from error
    cls = _imported(module, qualname)
    if cls is None or not isinstance(parts, list) or len(parts) != 2:
        return remote
    # Without the constructor if it fails: it often takes other arguments than it keeps.
    for make in (cls, functools.partial(cls.__new__, cls)):
        rebuilt = _rebuilt(make, cls, *parts)
        if rebuilt is not None and safe_str(rebuilt) == message:
            return rebuilt
    return remote


def reported_error(
    record: TaskRecord, status: TaskStatus, error: BaseException | None, limit: float = 0.0
) -> BaseException:
    """Return the error of a task that another process has ended.

    Args:
        record: The task.
        status: How it ended; not COMPLETED.
        error: What the other process has reported; None for nothing.
        limit: The task's time limit in seconds; 0.0 if unknown.
    """
    made = TRAITS[status].error
    if made is not None:
        return made(record.task_id, record.name)
    if status is TIMEOUT and not isinstance(error, TaskTimeoutError):
        return TaskTimeoutError(record.task_id, record.name, limit)
    return RemoteTaskError("unknown", "its error was not reported") if error is None else error


def _error_parts(error: BaseException) -> list[Any] | None:
    """Return the arguments and attributes of an error; None if they do not fit into JSON."""
    try:
        reduced: Any = error.__reduce__()
        if reduced[0] is not type(error):
            return None
        state = reduced[2] if len(reduced) > 2 else None
        notes = {key: value for key, value in (state or {}).items() if _is_plain(value)}
        parts = [list(reduced[1]), notes]
        text = json.dumps(parts)
        same = json.loads(text) == parts and len(text) <= _MAX_ERROR_ARGUMENTS
    except Exception:  # the error's class may do anything; its message is enough
        return None
    return parts if same else None


def _is_plain(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _imported(module: object, qualname: object) -> type[BaseException] | None:
    """Return an exception class if its module is already imported; imports nothing."""
    if not isinstance(module, str) or not isinstance(qualname, str):
        return None
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        # Not getattr: a module's __getattr__ may import something.
        found = getattr(found, "__dict__", {}).get(name)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _rebuilt(
    make: Callable[..., Any], cls: type[BaseException], args: Any, state: Any
) -> BaseException | None:
    try:
        error = make(*args)
        vars(error).update(state)
    except Exception:  # such as a constructor that takes other arguments than it keeps
        return None
    return error if isinstance(error, cls) else None
