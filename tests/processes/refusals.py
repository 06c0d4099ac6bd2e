"""What calls are refused with, so that a table has one for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


def refusal(call: Callable[[], object]) -> str:
    """Return the class and the words of the error that a call raises; "" if it raises none."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


async def refusal_of(awaited: Awaitable[object]) -> str:
    """Return the same of what is awaited."""
    try:
        await awaited
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
