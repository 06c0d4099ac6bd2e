"""The task timeline of a failing test: what happened when, on which thread, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.protocols import TaskEvent
from pytest_asyncframe import _gates

if TYPE_CHECKING:
    from pytest_asyncframe._toolkit import Toolkit

TITLE = "task timeline"

_FIRST, _LAST = 40, 80
"""How many events a long timeline shows from its beginning and from its end."""


def timeline(toolkit: Toolkit, root: Path) -> str:
    """Return what is said of the tasks of a test that has failed; "" if it had none.

    Args:
        toolkit: The test's parts, still open.
        root: Paths are shown from here.
    """
    heard = toolkit.recorder.heard
    if not heard:
        return ""
    begun = 0.0 if toolkit.is_virtual else heard[0][1].at
    lines = [_line(lane, event, begun, root) for lane, event in heard]
    if len(lines) > _FIRST + _LAST:
        left_out = len(lines) - _FIRST - _LAST
        lines[_FIRST:-_LAST] = [f"... {left_out:,} more events ..."]
    living = toolkit.recorder.living
    if living:
        lines.append("not ended:")
        lines += [f"  {_task(one.record.name, one.record.task_id)}" for one in living]
    if toolkit.clock is not None and toolkit.sequencer is not None and toolkit.sequencer.timers():
        lines.append("waits for its time:")
        lines += [f"  {line}" for line in toolkit.clock.explain().splitlines()]
    lines += _gates.lost_failures(toolkit)
    return "\n".join(lines)


def _line(lane: str, event: TaskEvent, begun: float, root: Path) -> str:
    return f"{event.at - begun:10.3f} s  {lane:16}  {_who(event)} {_what(event, root)}"


def _who(event: TaskEvent) -> str:
    return event.name if event.task_id is None else _task(event.name, event.task_id)


def _task(name: str, task_id: str) -> str:
    return f"{name.rpartition('.')[2]}#{task_id[:8]}"


def _what(event: TaskEvent, root: Path) -> str:
    kind = event.kind
    if kind == "submitted":
        return f"submitted at {_relative(str(event.origin), root)}"
    if kind in ("retrying", "throttled"):
        why = "" if event.error is None else f" after {_error(event.error)}"
        return f"{kind} in {event.delay:g} s{why}"
    if kind == "progress":
        share = 0.0 if event.progress is None else event.progress
        return f"{share:.0%} {event.message}".rstrip()
    if kind == "started":
        return f"started, attempt {event.attempt}"
    if event.error is not None:
        return f"{kind}: {_error(event.error)}"
    return f"{kind}: {event.message}" if event.message else kind


def _error(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a user's own; the report must come all the same
        text = "its text could not be had"
    return f"{type(error).__name__}: {_cut(text)}"


def _cut(text: str, most: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _relative(origin: str, root: Path) -> str:
    return origin.removeprefix(f"{root}/")


def sections(toolkit: Toolkit, root: Path) -> Sequence[tuple[str, str]]:
    """Return the sections that a failing test's report gets."""
    text = timeline(toolkit, root)
    return [(TITLE, text)] if text else []
