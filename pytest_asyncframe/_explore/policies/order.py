"""Orders in which not all can be taken: those that differ most from one another come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def in_turn(columns: Sequence[Sequence[T]]) -> list[T]:
    """Return the first of each column, then the second of each, and so on."""
    longest = max(map(len, columns), default=0)
    return [column[row] for row in range(longest) for column in columns if row < len(column)]


def coarse_to_fine(items: Sequence[T]) -> list[T]:
    """Return the first item, the last, the middle one, the middles of both halves, and so on."""
    last = len(items) - 1
    taken = dict.fromkeys([0, last] if last > 0 else range(len(items)))
    parts = 2
    while len(taken) < len(items):
        taken.update(dict.fromkeys(last * part // parts for part in range(1, parts, 2)))
        parts *= 2
    return [items[index] for index in taken]
