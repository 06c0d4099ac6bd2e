"""Books: what the processes that share a store decide together, written down once for all.

Schedules, the windows of throttles, and the lines of unique and limited tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from framework._records.records import TaskRecord
from framework._records.schedules import RunClaim, ScheduleState
from framework._tasks.places import PlaceAnswer, PlaceRequest


@runtime_checkable
class ScheduleBook(Protocol):
    """Optional methods of a `SharedStore` or `RemoteEngine` that keeps schedules for all processes.

    With a book, each due time is run once, by whichever process claims it first. Without one,
    every process runs its own schedules. If both the store and the engine have these methods, the
    framework asks the store.

    A run is identified by the name of its schedule and its due time, in seconds since the epoch.
    All processes compute the same due times, so their clocks may differ: the process whose clock is
    ahead claims a due time first, and the others are refused it. A name that is not known yet is
    entered by any of these calls.

    Every method may block, and may be called from any thread.

    Raises:
        StoreUnavailableError: Each method, if the store or broker does not answer. A claim may have
            had its effect all the same.
    """

    def enter_schedule(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter a schedule that this process runs, and return what is known about it.

        Args:
            name: Its name.
            timing: When it is due, for people; replaces what is known. If it is another one,
                ``last_due`` becomes *now* unless it is later: a due time of the new timing that
                lies before was not missed.
            now: The wall time of this process. It becomes ``last_due`` of a schedule that is not
                known yet, so a new schedule has missed nothing. The state is kept over restarts.
        """
        ...

    def claim_run(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """Claim one run of a schedule for this process, in one atomic step.

        A claim for the task of the last run is claimed again: the caller repeats a call that
        failed, and may have had its effect. It may repeat it for a later due time, which
        becomes ``last_due`` then. Apart from that, in this order:

        1. ``taken``: ``last_due`` is *due* or later, so this run was claimed or skipped already.
           A ``last_due`` that lies more than three hours after *due* does not count: it came from a
           clock that was wrong.
        2. ``paused``: the schedule is paused. Nothing changes.
        3. ``busy``: the task of the last run is live in any process, or its body is still running.
           With *skip*, ``last_due`` becomes *due* and ``skipped`` grows by one, so the due time is
           skipped once, whoever asks again. Without it, nothing changes.
        4. ``claimed``: ``last_due`` becomes *due*, ``task_id`` the id of *record*, and ``ran_at``
           its ``created_at``. In the same step *record* is stored as a live task of this
           process. If this process dies at the next moment, the task exists, and ends as every
           task of a dead process does.

        The framework accepts the task right after this. If it cannot, it puts the record as FAILED.

        Args:
            name: Its name.
            due: The due time; None for a run that was triggered by hand. That is neither taken
                nor paused, and leaves ``last_due`` as it is.
            record: The task to run: PENDING, and not accepted yet.
            skip: Whether the due time is skipped if the last run is still live.
        """
        ...

    def pause_schedule(self, name: str, paused: bool, now: float) -> bool:
        """Pause a schedule for all processes, or resume it.

        Resuming a paused schedule sets ``last_due`` to *now* unless it is later: what was due
        during the pause was not missed.

        Args:
            name: Its name.
            paused: Whether it is paused from now on. It is kept over restarts.
            now: The wall time of this process.

        Returns:
            Whether the name is known; False changes nothing.
        """
        ...

    def schedules(self) -> Sequence[ScheduleState]:
        """Return what is known about all schedules, of all processes, by name."""
        ...


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """A call that is to be counted in a window.

    Attributes:
        key: The window: printable text that is the same in every process.
        entry: The call: a random text of its caller's.
        rate: How many calls the window allows, 1 or more.
        length: Its length in seconds, above 0.
        ahead: Count it this many seconds from now at the earliest, 0 or more.
        waits: Whether it may be counted later than that; if not, and the window is full, it is
            not counted.
        within: It is counted less than this many seconds from now. One whose turn comes later
            stands in the line of its window, and asks again when it comes.
        place: Its place in that line: the id of its task if that rests meanwhile, or else *entry*.
        number: Its number there, as the latest answer has said; 0 the first time.
    """

    key: str
    entry: str
    rate: int
    length: float
    ahead: float = 0.0
    waits: bool = False
    within: float = math.inf
    place: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class WindowAnswer:
    """The answer to a `WindowRequest`: whether and when the call is counted.

    Attributes:
        counted: Whether it is counted.
        wait: How many seconds after the moment of the answer it is, or could be, counted.
        age: How many seconds before it is told that moment was, 0 or more.
        number: Its number in the line, if it stands there, for its next request.
    """

    counted: bool
    wait: float
    age: float = 0.0
    number: int = 0


@runtime_checkable
class SharedWindows(Protocol):
    """Optional methods of a `SharedStore`: windows of throttles that all processes share.

    Without these methods, each process has windows of its own. Both methods may be called from
    any thread, and must not block. The calls of one process take effect in their order.
    """

    def reserve(self, request: WindowRequest, told: Callable[[WindowAnswer], object]) -> None:
        """Count a call at the earliest time at which its window allows it.

        No half-open interval of the window's length may have more calls than its rate, by a clock
        that all processes share. Each call is counted after those before it, also if they
        are counted in the future, and after those that stand in the line with a smaller number.
        One that has not come a moment after its turn stands there no longer, but keeps its number.

        Args:
            request: The call. If it was counted already, this takes the place of that.
            told: Called once with the answer, on any thread. While the database fails, that
                takes until it works.
        """

    def give_back(self, key: str, entry: str) -> None:
        """Take a counted call out of its window, because its function is not called."""


@runtime_checkable
class SharedPlaces(Protocol):
    """Optional methods of a `RemoteEngine` or `SharedStore`: places that all processes share.

    Tasks of one key stand in a line, in which as many as the limit allows have a place, see
    `PlaceRequest`. Without these methods, unique tasks and ``max_running`` apply to each process
    separately. If both the engine and the store have them, the engine's are used.

    In all processes together, at any moment: no line has more tasks with a place than the limit
    that each of them asked for; and no task waits while the first of those that wait could have
    a place. Both methods may be called from any thread, and must not block. The calls of one
    process take effect in their order.

    A task loses its places when `leave` is called, and when its process dies, in the same step
    in which the others find that out. One that goes on elsewhere, as a task on a worker does,
    keeps them. A task that is to be replaced may be in a line before its process has stored its
    record, so its place is where the wish to cancel it has to be kept: see `PlaceAnswer.replaces`.
    A task that is final and whose function does not run any more must not be in the
    way of a later `join`, even if its `leave` is still on the way.
    """

    def join(self, request: PlaceRequest, told: Callable[[PlaceAnswer], object]) -> None:
        """Ask for a place.

        Args:
            request: The line, the task, and the limit. A request that is repeated, with the same
                key and task, gets the answer of the first one.
            told: Called once with the answer, on any thread and perhaps during this call. If the
                task enters the line and waits, it is called again once it has a place, unless it
                leaves before. While the database or broker fails, that takes until it works: the
                caller gives up by calling `leave`.
        """

    def leave(self, task_id: str) -> None:
        """Take a task out of all lines, whether it has places or waits; does nothing twice.

        Whoever has a place then is told.
        """
