"""What is found out about a function that is submitted, and for how long it is remembered."""

from __future__ import annotations

import functools
import gc
import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from framework._tasks.specs import spec_for


class Named:
    """A callable object with an argument."""

    def __call__(self, number: int) -> int:
        """Return *number*."""
        return number

    def method(self, number: int) -> int:
        """Return *number*."""
        return number


class Other(Named):
    """A class with the same method under another name."""


class Async(Named):
    """A callable object whose call is a coroutine."""

    async def __call__(self, number: int) -> int:  # type: ignore[override]  # async on purpose
        """Return *number*."""
        return number


def two(first: int, second: int = 0) -> int:
    """Return a sum."""
    return first + second


def like(signature_of: Callable[..., Any]) -> Named:
    """Return an object that says it has the signature of another function."""
    made = Named()
    made.__wrapped__ = signature_of  # type: ignore[attr-defined]  # what inspect looks for
    return made


def marked() -> Named:
    """Return an object whose calls return coroutines, as far as it says."""
    made = Named()
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(made)
    return made


PAIRS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (two, functools.partial(two, 1)),
    (functools.partial(two, 1), functools.partial(two, 1, 2)),
    (functools.partial(two, 1), functools.partial(two, first=1)),
    (Named(), Other()),
    (Named(), Async()),
    (Named(), like(two)),
    (Named(), marked()),
    (Named.method, Named().method),
    ([].append, {}.get),
    ([].append, list.append),
    ([].copy, {}.copy),
    (dict.fromkeys, {}.fromkeys),
    (abs, len),
]
"""Callables that have something in common and differ in their names, kinds or signatures."""


def known(fn: Callable[..., Any]) -> object:
    """Return the name, the kind and how many arguments fit, from 0 to 3."""
    spec = spec_for(fn)
    fits = []
    for count in range(4):
        try:
            if spec.check is not None:
                spec.check(*range(count))
            fits.append(count)
        except TypeError:
            continue
    return spec.name, spec.kind, fits


def test_what_differs_is_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found out about a function is not taken for that of a similar one."""

    def forget() -> None:
        monkeypatch.setattr("framework._tasks.specs._INSPECTED", weakref.WeakKeyDictionary())

    wrong = []
    for one, other in PAIRS:
        expected = []
        for fn in (one, other):
            forget()
            expected.append(known(fn))
        forget()
        expected.append(expected[0])
        if [known(one), known(other), known(one)] != expected:
            wrong.append((one, other))
    assert not wrong, wrong


def test_what_is_remembered_keeps_nothing_alive() -> None:
    """A submitted function with attributes, a class and its objects are freed as before."""

    def marked() -> None:
        """Do nothing."""

    marked.level = 1  # type: ignore[attr-defined]  # an attribute of the user's own

    class Local(Named):
        """A class of this test."""

        def __call__(self, number: int) -> int:
            """Return *number*."""
            return number

    kept: list[Any] = [marked, Local(), Local().method, functools.partial(marked)]
    for fn in kept:
        spec_for(fn)
    gone = weakref.ref(marked), weakref.ref(Local)
    del marked, Local, kept, fn
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_builtin_methods_of_many_lists_are_one() -> None:
    """A builtin method of another object each time is found out once, for its class."""
    checks = {spec_for([].append).check for _ in range(3)}
    assert len(checks) == 1
