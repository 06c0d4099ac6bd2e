"""The course of time: how many tasks started and ended in each minute or so, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from framework._manager.frameworks import get_task_manager
from framework._records.statuses import TRAITS
from framework.http._access.access import Access

Range: TypeAlias = Literal["hour", "day", "week"]


class _Spans(NamedTuple):
    """What the page draws of a range: so many bars, each for so many seconds."""

    many: int
    width: int


_RANGES: Final[Mapping[Range, _Spans]] = {
    "hour": _Spans(60, 60),
    "day": _Spans(96, 900),
    "week": _Spans(84, 7_200),
}


async def course_of(
    access: Access, owner: str | None, span: Range, /, **query: Any
) -> dict[str, Any]:
    """Return how many tasks that match started and ended in each part of a range up to now.

    Args:
        access: What may be seen.
        owner: Who asks.
        span: Which range.
        query: What else the list asks for.

    Returns:
        The wall second at which the first part begins (``since``), the seconds of each (``width``),
        and for each part how many tasks ``started``, and ended so: ``completed``, ``failed``, and
        ``other``.
    """
    many, width = _RANGES[span]
    # Whole minutes, so that the parts stay the same from one look to the next.
    since = (int(get_task_manager().clock.time()) // width - many + 1) * width
    parts = {kind: [0] * many for kind in ("started", "completed", "failed", "other")}
    for at, number in (await access.starts(owner, since, width, **query)).items():
        parts["started"][min(at, many - 1)] += number
    for (at, status), number in (await access.ends(owner, since, width, **query)).items():
        failed = "failed" if TRAITS[status].failed else "other"
        kind = "completed" if status == "completed" else failed
        # What has ended since the clock was read is in the last part.
        parts[kind][min(at, many - 1)] += number
    return {"since": since, "width": width, **parts}
