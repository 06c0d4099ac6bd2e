"""The arguments of a call by parameter name."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from framework.testing import layer_of, signature_of

Function: TypeAlias = Callable[..., Any]


def unwrapped(fn: Function) -> tuple[Function, tuple[Any, ...], dict[str, Any]]:
    """Return the function behind *fn*, and the arguments bound by *fn*.

    Decorators of the framework are removed. Methods bind their object, partials their
    arguments.
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
"""Leaves a place for a later argument, from Python 3.14 on."""


def by_name(fn: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by parameter name, with defaults.

    If the function has no signature, they are under ``args`` and ``kwargs``.

    Raises:
        TypeError: If they do not match the signature.
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
    """Whether two arguments are the same or equal; False if they cannot be compared."""
    if given is wanted:
        return True
    try:
        # In this order, so that the test's own value decides: mock.ANY or approx(), say.
        return bool(wanted == given)
    except Exception:  # arrays, for instance, have no truth value
        return False
