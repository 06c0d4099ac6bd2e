"""Errors as JSON text: of the class, the message, the cause, and what the error is made of.

Guarantees: nothing is ever pickled, and nothing is imported. Decoding runs only code of exception
classes that are already imported. Texts have a maximal length.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from framework._records.jsonsafe import safe_repr, safe_str
from framework._records.records import TaskRecord
from framework._records.statuses import TIMEOUT, TRAITS, TaskStatus
from framework._tasks.errors.tagged import tagged, untagged
from framework.exceptions import RemoteTaskError, TaskTimeoutError

_MAX_ARGUMENTS: Final = 8_192
_MOST_CAUSES: Final = 5
_MOST_MEMBERS: Final = 100
"""Of how many errors of a group something is kept."""

_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode


def encode_error(error: BaseException) -> str:
    """Encode an error as JSON text: its class, its message, its cause, and what it is made of.

    That is its arguments and attributes, as far as they are plain data, and the errors of a group.
    """
    return _to_json(_encoded(error, _MOST_CAUSES))


def decode_error(text: str) -> BaseException:
    """Return the error in *text*, from `encode_error`.

    It has its own class if that class is already imported in this process, so that the same
    ``except`` catches it. Arguments and attributes that were no plain data are missing. If the
    class is not imported, or makes no error with the same message, it is a `RemoteTaskError`.

    Raises:
        ValueError: If the text is not an error.
    """
    data = json.loads(text)
    try:
        return _decoded(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not an error in JSON: {safe_repr(text)}") from error


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


# -- there


def _encoded(error: BaseException, causes: int) -> dict[str, Any]:
    cls = type(error)
    args, state, lost = _parts(error)
    # Without tags, for releases that know of none.
    plain = None if args is None else [args, state]
    if plain is not None and not _is_plain(plain):
        plain = None
    data: dict[str, Any] = {
        "type": [cls.__module__, cls.__qualname__],
        "text": safe_str(error),
        "parts": plain,
    }
    if plain is None and (args is not None or state):
        data["tagged"] = [None if args is None else tagged(args), tagged(state)]
    if lost:
        data["lost"] = lost
    if isinstance(error, BaseExceptionGroup):
        members = error.exceptions[:_MOST_MEMBERS]
        data["group"] = [error.message, [_encoded(one, 0) for one in members]]
    if error.__cause__ is not None and causes:
        data["cause"] = _encoded(error.__cause__, causes - 1)
    return data


def _parts(error: BaseException) -> tuple[list[Any] | None, dict[str, Any], list[str]]:
    """Return the arguments of an error, its attributes, and the names of those that are left out.

    Arguments are None, and attributes are left out, if they are no plain data, or too long.
    """
    try:
        reduced: Any = error.__reduce__()
        args = list(reduced[1]) if reduced[0] is type(error) else None
        attributes: dict[str, Any] = (reduced[2] if len(reduced) > 2 else None) or {}
        state = {key: one for key, one in attributes.items() if _length(one) is not None}
        length = None if args is None else _length([args, state])
    except Exception:  # the error's class may do anything; its message is enough
        return None, {}, []
    if length is None or length > _MAX_ARGUMENTS:
        args = None
        if (_length(state) or 0) > _MAX_ARGUMENTS:
            state = {}
    return args, state, [key for key in attributes if key not in state]


def _length(value: object) -> int | None:
    """Return how long plain data is in JSON; None if it is something else."""
    try:
        return len(_to_json(tagged(value)))
    except (ValueError, TypeError, RecursionError):
        return None


def _is_plain(value: object) -> bool:
    return bool(json.loads(json.dumps(value, default=repr)) == value)


# -- and back


def _decoded(data: dict[str, Any]) -> BaseException:
    (module, qualname), message, parts = data["type"], data["text"], data["parts"]
    remote = RemoteTaskError(f"{module}.{qualname}", message)
    cls, error = _imported(module, qualname), None
    if cls is not None and "group" in data:
        text, members = data["group"]
        error = _rebuilt(cls, cls, (text, [_decoded(one) for one in members]), {})
    elif cls is not None:
        args, state = _known(parts if parts is not None else data.get("tagged"))
        error = _remade(cls, message, _ways(cls, message, args), state, data.get("lost", ()))
    error = remote if error is None else error
    if "cause" in data:
        error.__cause__ = _decoded(data["cause"])
    return error


def _known(parts: Any) -> tuple[list[Any] | None, dict[str, Any]]:
    """Return the arguments and attributes in JSON; None for arguments that are not known."""
    try:
        args, state = untagged(parts)
        return (args if args is None else list(args)), dict(state)
    except (TypeError, ValueError):  # of a later release, or of somebody else
        return None, {}


def _ways(
    cls: type[BaseException], message: str, args: list[Any] | None
) -> Iterator[tuple[Callable[..., Any], Any]]:
    """Yield what may make an error of a class, and what it is called with, the best first."""
    bare = functools.partial(cls.__new__, cls)
    if args is not None:
        yield cls, args
        # Without the constructor if it fails: it often takes other arguments than it keeps.
        yield bare, args
    yield bare, (message,)
    # A class that words its message itself, of what is not known here.
    if type(cls) is type and not hasattr(cls.__init_subclass__, "__func__"):
        named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        worded: Any = type(cls.__name__, (cls,), {**named, "__str__": lambda _: message})
        yield functools.partial(worded.__new__, worded), (message,)


def _remade(
    cls: type[BaseException], message: str, ways: Any, state: Any, lost: Collection[str]
) -> BaseException | None:
    """Return an error of a class that has a message; None if nothing makes one."""
    for make, given in ways:
        error = _rebuilt(make, cls, given, state)
        if error is None or safe_str(error) != message:
            continue
        for name in lost:
            # What a constructor has made of its arguments is not what the error had.
            vars(error).pop(name, None)
        if safe_str(error) == message:
            return error
    return None


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
