"""Functions, coroutine functions and properties of a class that do something else first."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def preceded(real: Any, first: Callable[..., object]) -> Any:  # Any: what a class has
    """Return what does the same as *real*, but calls *first* before, with its arguments."""
    if isinstance(real, property):
        return property(preceded(real.fget, first), real.fset, real.fdel, real.__doc__)
    if inspect.iscoroutinefunction(real):

        @functools.wraps(real)
        async def async_inner(*args: Any, **kwargs: Any) -> Any:
            first(*args, **kwargs)
            return await real(*args, **kwargs)

        return async_inner

    @functools.wraps(real)
    def sync_inner(*args: Any, **kwargs: Any) -> Any:
        first(*args, **kwargs)
        return real(*args, **kwargs)

    return sync_inner
