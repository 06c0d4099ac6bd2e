"""Groups: how many tasks wait, run and have failed of each function, label or owner."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from framework._records.jsonsafe import jsonable
from framework._records.statuses import PENDING, RUNNING, TRAITS, TaskStatus
from framework.http._access.access import Access

By: TypeAlias = Literal["name", "label", "owner"]

_MOST: Final = 100
"""How many groups are told, those with the most failures first."""

_KINDS: Final[Mapping[str, Sequence[TaskStatus]]] = {
    "waiting": [PENDING],
    "running": [RUNNING],
    "failed": [status for status, one in TRAITS.items() if one.failed],
}


async def groups_of(access: Access, owner: str | None, by: By, /, **query: Any) -> dict[str, Any]:
    """Return the groups of which a task waits, runs or has failed.

    Args:
        access: What may be seen.
        owner: Who asks.
        by: What the tasks of a group have in common; those without are in none.
        query: What else the list asks for.

    Returns:
        For each group, what its tasks have in common, and how many of them wait, run and have
        failed; and in ``left`` how many further groups there are.
    """
    found = defaultdict[str, Counter[str]](Counter)
    for kind, statuses in _KINDS.items():
        for value, many in (await access.counts(owner, by, status=statuses, **query)).items():
            if value is not None and many:
                found[value][kind] += many
    first = heapq.nlargest(
        _MOST, found.items(), key=lambda one: (one[1]["failed"], one[1].total(), one[0])
    )
    groups = [[jsonable(value), *(its[kind] for kind in _KINDS)] for value, its in first]
    return {"groups": groups, "left": len(found) - len(groups)}
