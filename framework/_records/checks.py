"""Checks of parameters. Each error names the parameter, the value, and what is allowed."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from framework._records.jsonsafe import safe_repr

T = TypeVar("T")

_LONGEST_SHOWN = 80


def number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float = math.inf,
    finite: bool = True,
) -> float:
    """Return *value* as a float, if it is a number in the given range.

    Args:
        name: Name of the parameter, for the message.
        value: The value given.
        above: The value must be greater than this; None for no such bound.
        at_least: The value must be this or greater; None for no such bound.
        at_most: The value must be this or smaller.
        finite: Whether infinity is refused.

    Raises:
        TypeError: If *value* is not an int or float. A bool is neither.
        ValueError: If it is NaN or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = "; for seconds, use .total_seconds()" if isinstance(value, timedelta) else ""
        wanted = _range(above, at_least, at_most)
        raise TypeError(f"{name} must be {wanted}, not {show(value)}{hint}")
    try:
        seen = float(value)
    except OverflowError:  # an int too large for a float
        seen = math.nan
    good = (
        not math.isnan(seen)
        and (above is None or seen > above)
        and (at_least is None or seen >= at_least)
        and seen <= at_most
        and not (finite and math.isinf(seen))
    )
    if not good:
        raise ValueError(f"{name} must be {_range(above, at_least, at_most)}, not {show(value)}")
    return seen


def seconds(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    finite: bool = True,
) -> float:
    """Return a time in seconds, given as a number of them or as a timedelta.

    The options, settings and timeouts of the framework are checked here, so that a timedelta
    does for each of them. The arguments are those of `number`.

    Raises:
        TypeError: If *value* is neither.
        ValueError: If it is NaN or out of range.
    """
    given = value.total_seconds() if isinstance(value, timedelta) else value
    try:
        return number(name, given, above=above, at_least=at_least, finite=finite)
    except (TypeError, ValueError) as error:
        hint = ""
        if isinstance(value, datetime):
            hint = f": for a moment, use {name}=moment - datetime.now(moment.tzinfo)"
        raise type(error)(
            f"{name} must be {_range(above, at_least, math.inf)} or a timedelta, not "
            f"{show(value)}{hint}"
        ) from None


def integer(name: str, value: object, *, at_least: int, at_most: int | None = None) -> int:
    """Return *value* if it is an int of at least *at_least*, and at most *at_most*.

    Raises:
        TypeError: If *value* is not an int. A bool does not count as one.
        ValueError: If it is out of range.
    """
    span = f"of at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number {span}, not {show(value)}")
    if value < at_least or (at_most is not None and value > at_most):
        raise ValueError(f"{name} must be a whole number {span}, not {show(value)}")
    return value


def limit(name: str, value: object) -> float | None:
    """Return a time limit in seconds, above 0: None for the default, infinity for no limit.

    Raises:
        TypeError: If *value* is neither None, a number nor a timedelta.
        ValueError: If it is NaN, 0 or negative.
    """
    return None if value is None else seconds(name, value, above=0, finite=False)


def timeout(value: object) -> float | None:
    """Return how many seconds to wait, 0 or more: None and infinity for no limit.

    Raises:
        TypeError: If *value* is neither None, a number nor a timedelta.
        ValueError: If it is NaN or negative.
    """
    return None if value is None else seconds("timeout", value, at_least=0, finite=False)


def text(name: str, value: object) -> str:
    """Return *value* if it is a string.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {show(value)}")
    return value


def filled_text(name: str, value: object) -> str:
    """Return *value* if it is a string that is not empty and can be encoded as UTF-8.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty or has a lone surrogate.
    """
    given = text(name, value)
    if not given or given != given.encode("utf-8", "replace").decode("utf-8"):
        raise ValueError(
            f"{name} must be a non-empty string that is valid in UTF-8, not {show(value)}"
        )
    return given


def path_prefix(name: str, value: object) -> str:
    """Return *value* if it can be the beginning of the paths of some routes, or "".

    Raises:
        TypeError: If it is not a string.
        ValueError: If it does not begin with a slash, or ends with one.
    """
    given = text(name, value)
    if given and (not given.startswith("/") or given.endswith("/")):
        raise ValueError(
            f"{name} must be '' or begin with '/' and not end with it, not {show(given)}"
        )
    return given


def task_id(name: str, value: object) -> str:
    """Return *value* if a user may choose it as a task's id.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty, too long or not printable, or would not be found as the last
            part of a URL.
    """
    given = text(name, value)
    if "/" in given or given in _UNREACHABLE:
        raise ValueError(
            f"{name} must have no '/' and be none of {', '.join(map(repr, _UNREACHABLE))}, so that "
            f"a URL can end with it, not {show(value)}: choose another, such as 'order-7', or omit "
            "it for a random one"
        )
    if not may_be_task_id(given):
        raise ValueError(
            f"{name} must have 1 to {_LONGEST_ID} characters, all of them printable, not "
            f"{show(value)} ({len(given)} characters): choose another, or omit it for a "
            "random one"
        )
    return given


_LONGEST_ID = 200

# Clients fold the dots of a path; the words are other routes beside that of a task.
_UNREACHABLE = (".", "..", "dashboard", "stats")


def owner(name: str, value: object) -> str | None:
    """Return *value* if it can be the owner of tasks; None for no owner.

    Args:
        name: What *value* is, for the message.
        value: The value given.

    Raises:
        TypeError: If it is neither a string nor None.
        ValueError: If it is empty, too long or not printable.
    """
    if value is None:
        return None
    wanted = "a string of 1 to 255 printable characters, or None for nobody"
    if not isinstance(value, str):
        # The repr of a user may have what no log should.
        is_plain = isinstance(value, (int, float, bytes))
        given = show(value) if is_plain else f"of type {type(value).__qualname__}"
        raise TypeError(
            f"{name} must be {wanted}, not {given}: use an id as a string, such as str(user.id)"
        )
    if not value:
        raise ValueError(f"{name} must be {wanted}, not {show(value)}")
    if len(value) > _LONGEST_OWNER or not value.isprintable():
        raise ValueError(
            f"{name} must be {wanted}, not {show(value)} ({len(value)} characters): use the "
            "user's id, or a hash of this text"
        )
    # Of a subclass, such as an enum's, only the text is kept.
    return str.__str__(value)


_LONGEST_OWNER = 255


def may_be_task_id(text: str) -> bool:
    """Return whether *text* could be a task's id, random or chosen by a user.

    Stores may have ids that `task_id` refuses today.
    """
    return 1 <= len(text) <= _LONGEST_ID and text.isprintable()


def amount(name: str, value: object) -> int:
    """Return *value* if it is a whole number, 0 or more; 0 for False.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is negative.
    """
    return 0 if value is False else integer(name, value, at_least=0)


def flag(name: str, value: object) -> bool:
    """Return *value* if it is True or False.

    Raises:
        TypeError: If it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {show(value)}")
    return value


def function(name: str, value: object, *, of: str) -> object:
    """Return *value* if it is callable or None.

    Args:
        name: Name of the parameter, for the message.
        value: The value given.
        of: What it will be called with, for the message.

    Raises:
        TypeError: If it is neither, or is async: it is called and not awaited.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function of {of} or None, not {show(value)}")
    if inspect.iscoroutinefunction(value):
        raise TypeError(f"{name} must be a plain function of {of}, not the async {show(value)}")
    return value


def exception_types(name: str, value: object) -> tuple[type[BaseException], ...]:
    """Return *value* as a tuple if it is an exception class, or a tuple or list of them.

    Raises:
        TypeError: If it is neither.
        ValueError: If there is none in it.
    """
    types = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not types:
        raise ValueError(
            f"{name} must contain at least one exception class, not {show(value)}: otherwise the "
            "function would never be retried"
        )
    for one in types:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise TypeError(
                f"{name} must be an exception class, or a tuple or list of them, not {show(value)}"
            )
    return types


def optional(check: Callable[[str, object], T]) -> Callable[[str, object], T | None]:
    """Return *check* as a function that also accepts None."""
    return lambda name, value: None if value is None else check(name, value)


def methods(name: str, part: object, needed: tuple[str, ...]) -> None:
    """Require the methods of a protocol; None is accepted.

    Args:
        name: Name of the parameter, for the message.
        part: The value given: a clock, engine, store or the like, or None.
        needed: The methods that it must have.

    Raises:
        TypeError: If a method is missing, or it is a class.
    """
    if part is None:
        return
    if isinstance(part, type):
        known = part.__name__
        raise TypeError(f"{name} must be an object, such as {known}(...), not the class {known}")
    missing = [method for method in needed if not callable(getattr(part, method, None))]
    if missing:
        raise TypeError(
            f"{name} must have the methods of framework.protocols, but {show(part)} lacks "
            f"{', '.join(missing)}"
        )


def telemetry(
    name: str, value: object
) -> tuple[Any, ...]:  # of protocols.Telemetry, which is defined above
    """Return what reports on tasks, each a `protocols.Telemetry`, as a tuple.

    Raises:
        TypeError: If it is not a list of such objects.
    """
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            f"{name} must be a list, such as {name}=[PrometheusSink()], not {show(value)}"
        )
    for one in value:
        if isinstance(one, type) or not callable(getattr(one, "attach", None)):
            raise TypeError(
                f"{name} must be a list of objects with a method attach(manager), such as "
                f"{name}=[PrometheusSink()]; {show(one)} has none"
            )
    return tuple(value)


def clock(value: object) -> None:
    """Require a clock; None is accepted.

    Raises:
        TypeError: If *value* is neither.
    """
    methods("clock", value, ("monotonic", "time", "call_at", "wait", "hold", "release"))


def choice(name: str, value: T, allowed: tuple[T, ...]) -> T:
    """Return *value* if it is one of *allowed*.

    Raises:
        ValueError: If it is not.
    """
    if value not in allowed:
        listed = " or ".join(repr(one) for one in allowed)
        raise ValueError(f"{name} must be {listed}, not {show(value)}")
    return value


def choices(name: str, value: object, allowed: tuple[str, ...]) -> frozenset[str]:
    """Return *value* as a set if it is a collection of strings from *allowed*.

    Raises:
        TypeError: If it is a single string, or not a collection.
        ValueError: If one of the strings is not allowed.
    """
    if isinstance(value, str) or not isinstance(value, Collection):
        raise TypeError(f"{name} must be a collection of strings, not {show(value)}")
    for one in value:
        if one not in allowed:
            raise ValueError(f"{name} must be among {', '.join(allowed)}, not {show(one)}")
    return frozenset(value)


def nearest(given: str, known: Iterable[str]) -> str:
    """Return the end of a message that asks if the most similar name was meant, or ""."""
    close = difflib.get_close_matches(given, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _range(above: float | None, at_least: float | None, at_most: float) -> str:
    bounds = []
    if above is not None:
        bounds.append(f"above {above:g}")
    if at_least is not None:
        bounds.append(f"at least {at_least:g}")
    if not math.isinf(at_most):
        bounds.append(f"at most {at_most:g}")
    return "a number" + (f" {' and '.join(bounds)}" if bounds else "")


def show(value: object) -> str:
    """Return *value* as text for a message, whatever its ``repr`` does."""
    return safe_repr(value, _LONGEST_SHOWN)


def id_in_use(task_id: str) -> ValueError:
    """Return the error for a chosen id that is in use."""
    return ValueError(
        f"task_id must be one that no task has, not {task_id[:80]!r}: choose another, or "
        "leave it out for a random one"
    )
