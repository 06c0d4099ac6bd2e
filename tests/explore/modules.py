"""Small modules under a folder of their own, and the places that their functions come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from types import CodeType
from typing import Any

from pytest_asyncframe._explore.points.follower import Followed, Follower

Names = dict[str, Any]  # Any: what a module has


def module(root: Path, source: str, file: str = "app.py") -> Names:
    """Return what a module under *root* defines."""
    names: Names = {"__name__": "app"}
    exec(compile(dedent(source), str(root / file), "exec"), names)
    return names


def places(
    root: Path, level: str, call: Callable[[], object], own: Sequence[CodeType] = ()
) -> list[str]:
    """Return the names of the places that a call comes to, in order."""
    found: list[str] = []
    lines = Follower(level, Followed(root, own))
    with lines.claimed(), lines.calling(lambda _, place: found.append(place)):
        call()
    return found


ONE_LINE = """
    n = 0

    def left():
        global n
        n += 1

    right = left

    def result():
        return n
"""

TWO_LINES = """
    n = 0

    def left():
        global n
        seen = n
        n = seen + 1

    right = left

    def result():
        return n
"""
