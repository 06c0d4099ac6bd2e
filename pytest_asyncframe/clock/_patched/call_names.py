"""Which function a call on another thread is about, below what libraries wrap around it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from framework.testing import function_name
from pytest_asyncframe._locations import is_users

Function = Callable[..., Any]


def name_of_call(
    fn: Function, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
) -> str:
    """Return the name of the first function of the user's code in a call, else that of *fn*.

    ``asyncio.to_thread`` runs ``Context.run`` with the function, and FastAPI a function of its
    own with the endpoint.

    Args:
        fn: The function that is called, with partials around it.
        args: Its positional arguments.
        kwargs: Its keyword arguments; None for none.
    """
    for one in _parts(fn, args, kwargs or {}):
        function = inspect.unwrap(one) if callable(one) else one
        code = getattr(function, "__code__", None)
        if code is not None and is_users(code):
            return function_name(function)
    return function_name(fn)


def _parts(fn: Function, args: Sequence[object], kwargs: Mapping[str, object]) -> Iterator[Any]:
    if isinstance(fn, functools.partial):
        yield from _parts(fn.func, fn.args, fn.keywords)
    else:
        yield fn
    yield from args
    yield from kwargs.values()


def named(run: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return *run* under another name, which pools of ours show."""

    def sync_inner(*args: Any) -> Any:
        return run(*args)

    sync_inner.__qualname__ = name
    sync_inner.__module__ = None  # type: ignore[assignment]  # the name has it
    return sync_inner
