"""The arguments of a call by the names of its function's parameters."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from framework.testing import layer_of, signature_of

Function: TypeAlias = Callable[..., Any]


def unwrapped(fn: Function) -> tuple[Function, tuple[Any, ...], dict[str, Any]]:
    """Return the function behind *fn*, and the arguments that are given by *fn* itself.

    Decorators of the framework are taken off, bound methods give their object, and partials
    what they were made with.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    inner: Any = fn
    while True:
        if isinstance(inner, functools.partial):
            if any(arg is _PLACEHOLDER for arg in inner.args):
                return inner, args, kwargs
            args, kwargs = (*inner.args, *args), {**inner.keywords, **kwargs}
            inner = inner.func
        elif isinstance(inner, types.MethodType):
            args = (inner.__self__, *args)
            inner = inner.__func__
        elif layer_of(inner) is not None:
            inner = inner.fn
        else:
            return inner, args, kwargs


_PLACEHOLDER = getattr(functools, "Placeholder", object())
"""Keeps a place free for a later argument, from Python 3.14 on."""


def by_name(fn: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by parameter, with the defaults of those left out.

    Those of a function that does not tell its parameters are under ``args`` and ``kwargs``.

    Raises:
        TypeError: If they do not fit.
    """
    inner, first, named = unwrapped(fn)
    args, kwargs = (*first, *args), {**named, **kwargs}
    signature = signature_of(inner)
    if signature is None:
        return {"args": args, "kwargs": kwargs}
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def equal(given: Any, wanted: Any) -> bool:
    """Whether two arguments are the same or equal; what cannot be compared is not."""
    if given is wanted:
        return True
    try:
        # In this order, so that what a test wrote decides: mock.ANY, say, or approx().
        return bool(wanted == given)
    except Exception:  # arrays, for instance, say neither yes nor no
        return False
