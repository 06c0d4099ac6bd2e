"""What refused calls say, for tables of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


def said(call: Callable[[], object]) -> str:
    """Return the type and the text of the error that *call* raises, or what it returned."""
    try:
        return f"returned {call()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def said_by(call: Callable[[], Awaitable[object]]) -> str:
    """Return the same of what is awaited."""
    try:
        return f"returned {await call()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
