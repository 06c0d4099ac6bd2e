"""Features: what a store or an engine can do beyond what each of them must."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol, get_args, get_type_hints

from framework.protocols._engines import KeepingEngine, LoggingWorkers, TaskRules
from framework.protocols._sharing import (
    AskingDirectory,
    Fallible,
    NewsDirectory,
    ScheduleBook,
    SharedDirectory,
    SharedPlaces,
    SharedWindows,
)
from framework.protocols._stores import (
    CallStore,
    CountingStore,
    GroupingStore,
    LargeStore,
    PagedStore,
    RequeueStore,
    SharedStore,
)


@dataclass(frozen=True, slots=True)
class Features:
    """The optional abilities of a store or an engine: for each, the object that has it, or None.

    The objects may be the store itself or parts of it.

    Attributes:
        shared: Several processes share its tasks; of stores only.
        pages: It reads a few tasks without the others.
        counts: It uses all of a query, and counts; then `pages` is the same object.
        groups: It counts by a field in one look; then `counts` is the same object.
        calls: It keeps the arguments of tasks.
        requeue: Other processes can run the tasks of an ended one.
        large: It does not hold all its tasks in memory.
        schedules: It decides which process runs a schedule.
        places: It keeps the lines of unique tasks and of ``max_running`` for all processes.
        windows: It keeps the windows of throttles for all processes.
        directory: It knows when no other process can have a task with an unknown id.
        asking: It can ask the other processes to store their tasks, to find an unknown id.
        news: It knows which tasks of other processes change.
        fallible: It says whether it can be used now, and why not.
        keeping: It has the tasks that wait for their start; of engines only.
        logging: Its workers log failures; of engines only.
        rules: It has rules for tasks and their values; of engines only.
    """

    shared: SharedStore | None = None
    pages: PagedStore | None = None
    counts: CountingStore | None = None
    groups: GroupingStore | None = None
    calls: CallStore | None = None
    requeue: RequeueStore | None = None
    large: LargeStore | None = None
    schedules: ScheduleBook | None = None
    places: SharedPlaces | None = None
    windows: SharedWindows | None = None
    directory: SharedDirectory | None = None
    asking: AskingDirectory | None = None
    news: NewsDirectory | None = None
    fallible: Fallible | None = None
    keeping: KeepingEngine | None = None
    logging: LoggingWorkers | None = None
    rules: TaskRules | None = None


class Featured(Protocol):
    """An optional member of a `TaskStore` or `RemoteEngine` that says what it can do.

    Without it, the framework looks which of the optional protocols the object has the methods of.
    With it, a type checker sees whether each of them is complete.
    """

    @property
    def features(self) -> Features:
        """What it can do. Read when the framework is made, before a store is opened."""
        ...


_KINDS: Final[dict[str, type]] = {
    name: get_args(hint)[0] for name, hint in get_type_hints(Features).items()
}
"""The protocol of each field."""


def features_of(part: object) -> Features:
    """Return what a store or an engine can do.

    One whose own class is `Featured`, as the built-in stores are, is taken at its word. Any other,
    written for the protocols alone or derived from a class that is `Featured`, is looked at
    here: what it has the methods of, it can do.

    Args:
        part: A store or an engine; None can do nothing.
    """
    if part is None:
        return Features()
    if "features" in vars(type(part)) or "features" in getattr(part, "__dict__", ()):
        stated = part.features  # type: ignore[attr-defined]  # it was just found
        if isinstance(stated, Features):
            return stated
    # Any: a value for a field only if it has the field's protocol
    found: dict[str, Any] = {name: part for name, kind in _KINDS.items() if isinstance(part, kind)}
    if _is_older(type(part), "count_by", than="count"):
        # It counts in a way of its own, of which the method that it was derived from knows nothing.
        found.pop("groups", None)
    return Features(**found)


def _is_older(kind: type, method: str, *, than: str) -> bool:
    """Return whether a class derived from that of *method* has a newer method *than*."""
    for one in kind.__mro__:
        if method in vars(one) or than in vars(one):
            return method not in vars(one)
    return False
