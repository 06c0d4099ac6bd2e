"""What a call raises, as a value: a table of refusals is compared at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Told = tuple[type[Exception] | None, str]


def told_by(call: Callable[..., object], *args: Any, **kwargs: Any) -> Told:
    """Return the class and the text of what a call raises; None and no text for nothing."""
    try:
        call(*args, **kwargs)
    except (TypeError, ValueError) as error:
        return type(error), str(error)
    return None, ""


def differing(told: Iterable[Told], expected: Iterable[Told]) -> list[tuple[Told, Told]]:
    """Return what was told beside what was expected, where one does not begin as the other."""
    pairs = list(zip(told, expected, strict=True))
    return [
        (one, other)
        for one, other in pairs
        if one[0] is not other[0] or not one[1].startswith(other[1])
    ]
