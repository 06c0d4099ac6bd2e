"""Checks of what a test plans, and the text that shows how it was planned."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable

from pytest_asyncframe._faults.planned import InjectedError
from pytest_asyncframe._seen.entries import Target

EVENTS = ("started", "progress", "retrying", "throttled")
"""The events after which a worker can crash."""

KINDS = ("fail", "slow", "crash_worker", "deliver_twice", "queue_full")
"""The faults that `FaultPlan.chaos` draws from."""


def numbers_of(on: object) -> frozenset[int] | None:
    """Return the numbers of attempts, from 1; None for each attempt.

    Raises:
        TypeError: If *on* is neither a whole number nor several of them.
        ValueError: If a number is below 1, or there is none.
    """
    __tracebackhide__ = True
    if on is None:
        return None
    if isinstance(on, str) or not isinstance(on, (int, Iterable)):
        raise TypeError(f"on must be a whole number, a list of them, or None, not {on!r}")
    numbers = [on] if isinstance(on, int) else list(on)
    if not numbers:
        raise ValueError("on must have a number: leave it out for each attempt")
    for number in numbers:
        check_number("on", number)
    return frozenset(numbers)


def check_number(name: str, number: object) -> None:
    """Check that a number is a whole one, from 1 on."""
    __tracebackhide__ = True
    if whole(name, number) < 1:
        raise ValueError(f"{name} must be 1 or more, not {number!r}")


def whole(name: str, number: object) -> int:
    """Return a number that has to be a whole one."""
    __tracebackhide__ = True
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name} must be a whole number, not {number!r}")
    return number


def check_seconds(seconds: object) -> None:
    """Check that a duration is above 0 and finite."""
    __tracebackhide__ = True
    if not 0 < _number("seconds", seconds) < math.inf:
        raise ValueError(f"seconds must be above 0 and finite, not {seconds!r}")


def _number(name: str, value: object) -> float:
    __tracebackhide__ = True
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    return value


def check_probability(p: object) -> None:
    """Check that a probability is from 0 to 1."""
    __tracebackhide__ = True
    if not 0 <= _number("p", p) <= 1:
        raise ValueError(f"p must be from 0 to 1, not {p!r}")


def check_event(after: object) -> None:
    """Check that a worker can crash after an event.

    Raises:
        ValueError: If it cannot.
    """
    __tracebackhide__ = True
    if after not in EVENTS:
        raise ValueError(f"after must be one of {', '.join(EVENTS)}, not {after!r}")


def check_kinds(kinds: object) -> None:
    """Check that *kinds* names one or more of `KINDS`, and nothing else.

    Raises:
        ValueError: If not.
    """
    __tracebackhide__ = True
    several = list(kinds) if isinstance(kinds, Iterable) and not isinstance(kinds, str) else []
    if not several or any(kind not in KINDS for kind in several):
        raise ValueError(f"kinds must be a list of {', '.join(KINDS)}, not {kinds!r}")


def check_exc(exc: object) -> None:
    """Check that *exc* is an error, or makes one. A class is tried; a function is not called.

    Raises:
        TypeError: If it is neither.
    """
    __tracebackhide__ = True
    if isinstance(exc, BaseException) or exc is InjectedError:
        return
    if isinstance(exc, type) and issubclass(exc, BaseException):
        try:
            exc()
        except Exception as error:  # whatever its constructor raises
            raise TypeError(
                f"exc={exc.__name__} cannot be created without arguments ({error}): pass an "
                "instance, or a function that returns one"
            ) from None
        return
    if isinstance(exc, type) or not callable(exc) or inspect.iscoroutinefunction(exc):
        raise TypeError(
            "exc must be an exception, an exception class, or a function that returns or raises "
            f"one, not {exc!r}"
        )


# -- texts


def arguments(*args: object, **kwargs: object) -> str:
    """Return the arguments of a call as source code, without the defaults."""
    given = [(key, value) for key, value in kwargs.items() if value not in (None, InjectedError)]
    named = [f"{key}={_shown(value)}" for key, value in given]
    return ", ".join([*map(str, args), *named])


def _shown(value: object) -> str:
    if isinstance(value, frozenset):
        return repr(sorted(value))
    if isinstance(value, Target):
        return value.name
    return str(getattr(value, "__name__", None) or repr(value))
