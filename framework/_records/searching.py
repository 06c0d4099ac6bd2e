"""Searching for tasks by a part of their id, name or description."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

Test = Callable[[str], bool]
"""Returns whether a text has the part that is searched for."""


def variants(search: str) -> list[str]:
    """Return for each character of *search* all that it matches: itself, its upper and lower case.

    Every store finds the same by them, whatever the language of a database. In a search of ASCII
    letters alone, only these have two cases.
    """
    if search.isascii():
        return [_both(one) for one in search]
    return ["".join(sorted({one, *filter(_is_one, (one.lower(), one.upper()))})) for one in search]


def _both(one: str) -> str:
    return one if one.upper() == one.lower() else one.upper() + one.lower()


def _is_one(text: str) -> bool:
    # Such as the capital of a sharp s, which is two.
    return len(text) == 1


@functools.lru_cache(maxsize=64)
def finder(search: str) -> Test:
    """Return a test for texts that have *search* as a part."""
    classes = "".join(f"[{re.escape(one)}]" for one in variants(search))
    found = re.compile(classes, re.DOTALL).search
    small = search.lower()

    def has(text: str) -> bool:
        if text.isascii():
            # The same, and ten times as fast.
            return small in text.lower()
        return found(text) is not None

    return has
