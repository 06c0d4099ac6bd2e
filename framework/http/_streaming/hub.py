"""The hub: tells the open streams of an event loop when the state of their task changes.

A stream sends states, not a log of what happened: a client gets the newest state as soon as it
can take one. So what lies between two states that it gets costs nothing, a slow client keeps
nothing waiting, and a client that comes back has missed nothing. The last state is always sent.

Guarantees: without a stream, nothing is subscribed and no timer is set; a state is looked up once
for all clients of the task; the event loop gets its turn after `_SLICE` clients at most.
Relies on: calls on the thread of its loop, except for those of `_hear`, `_heard` and `Topic.wake`.
Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from framework._manager.core import Core
from framework._manager.inside import source_of
from framework._manager.servers import find_server, is_leaving
from framework._records.records import STEPS_CHANGED, TaskEvent, TaskRecord
from framework._tasks.live import LiveTask
from framework._tasks.task import Task
from framework._threads.clock import SystemClock
from framework.http._streaming.followed import FollowedSteps, StepsFrame
from framework.http._streaming.frames import Frame, mark_of
from framework.protocols import TimerHandle

BEAT_EVERY: Final = 15.0
"""Seconds until a client is sent a comment; many proxies close what is silent for a minute."""

PATIENCE: Final = 30.0
"""Seconds for which a client may take nothing. Until then, what it does not read waits in the
buffers of its connection: 16 kB in the kernel, 64 kB in a uvicorn, and one state more."""

_GAP: Final = 0.1
"""Seconds between two states that differ in the progress alone."""

_SLICE: Final = 50
"""Clients that are woken in one turn of the loop: some 2 ms of work."""

_LOOK_EVERY: Final = 0.1
"""Seconds between two looks whether the server is leaving, as often as uvicorn itself looks."""

_KINDS: Final = (
    "started",
    "progress",
    "retrying",
    "throttled",
    "sleeping",
    "requeued",
    STEPS_CHANGED,
)
"""The events that change a live task. Of the end a `Topic` is told by itself."""


def hub_of(core: Core) -> Hub:
    """Return the hub of the running event loop."""
    loop = asyncio.get_running_loop()
    hub = core.hubs.get(loop)
    if not isinstance(hub, Hub):
        for other in [one for one in core.hubs if one.is_closed()]:
            del core.hubs[other]
        hub = core.hubs[loop] = Hub(core, loop)
    return hub


class Hub:
    """The streams of one event loop.

    Args:
        core: The core whose tasks they show.
        loop: The running loop.

    Attributes:
        core: Like the argument.
        loop: Like the argument.
        post: Calls a function on the loop; from any thread.
        leaving: Whether the server shuts down, so that streams are to end.
        in_real_time: Whether the clock is the system's.
    """

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop) -> None:
        self.core = core
        self.leaving = False
        self.in_real_time = isinstance(core.clock, SystemClock)
        self.loop = loop
        self.post = core.boxes.of(loop).post
        self._topics: dict[str, Topic] = {}
        # What to call when the server leaves: one for each stream and each other wait.
        self._guests: dict[Callable[[], object], None] = {}
        self._to_wake: deque[Seat] = deque()
        self._pumping = False
        self._timer: TimerHandle | None = None
        self._look_again: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._server: object = None
        self._opened = 0

    # -- who is there

    def enter(self, on_leaving: Callable[[], object]) -> None:
        """Add a guest, until `leave`; *on_leaving* is called once when the server leaves."""
        self._guests[on_leaving] = None
        if len(self._guests) == 1:
            self._server = self._server or find_server()
            self._look()

    def leave(self, on_leaving: Callable[[], object]) -> None:
        """Remove a guest."""
        self._guests.pop(on_leaving, None)
        if not self._guests and self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody is there, nothing is subscribed and no timer is set."""
        return not (
            self._guests or self._topics or self._timer or self._unsubscribe or self._look_again
        )

    def _look(self) -> None:
        """End everything if the server is leaving, or look again soon."""
        if self._server is None:
            return
        if not is_leaving(self._server):
            self._look_again = self.loop.call_later(_LOOK_EVERY, self._look)
            return
        self._look_again = None
        self.leaving = True
        for on_leaving in list(self._guests):
            on_leaving()

    # -- streams

    def spread(self) -> int:
        """Return a number from 0 to 1,999, another one each time; they are spread evenly."""
        self._opened += 1
        return self._opened * 1_236 % 2_000

    def listen(self, task: Task) -> Seat:
        """Return a seat for a client that follows a task, until `Seat.close`."""
        task_id = str(task.task_id)
        topic = self._topics.get(task_id)
        if topic is None:
            if not self._topics:
                self._unsubscribe = self.core.ledger.subscribe(self._hear, _KINDS)
                self._set_timer()
            topic = self._topics[task_id] = Topic(self, task)
            topic.open()
        seat = Seat(topic)
        topic.seats[seat] = None
        self.enter(seat.end)
        return seat

    def unlisten(self, seat: Seat) -> None:
        """Remove a seat."""
        topic = seat.topic
        topic.seats.pop(seat, None)
        if not topic.seats and self._topics.get(topic.task_id) is topic:
            del self._topics[topic.task_id]
            topic.close()
            if not self._topics:
                self._stop()
        self.leave(seat.end)

    def _stop(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hear(self, event: TaskEvent) -> None:
        """Note that a task has changed; on any thread."""
        topic = self._topics.get(event.task_id or "")
        if topic is None:
            return
        if event.kind == STEPS_CHANGED:
            topic.steps.hear()
        elif event.kind == "progress":
            topic.wake_soon()
        else:
            topic.wake()

    def tell(self, topic: Topic) -> None:
        """Wake the clients of a topic, as many at once as the loop can bear."""
        self._to_wake += [seat for seat in topic.seats if seat.is_to_wake()]
        if not self._pumping:
            # Not at once: many topics may change in one turn of the loop.
            self._pumping = True
            self.loop.call_soon(self._pump)

    def _pump(self) -> None:
        for _ in range(min(_SLICE, len(self._to_wake))):
            self._to_wake.popleft().wake()
        self._pumping = bool(self._to_wake)
        if self._pumping:
            self.loop.call_soon(self._pump)

    # -- silence

    def _set_timer(self) -> None:
        clock = self.core.clock
        at = clock.monotonic() + BEAT_EVERY
        self._timer = clock.call_at(at, lambda: self.post(self._beat), background=True)

    def _beat(self) -> None:
        """Let clients that were sent nothing have a comment, and drop those that do not read."""
        if not self._topics:
            return
        now = self.core.clock.monotonic()
        for topic in list(self._topics.values()):
            for seat in list(topic.seats):
                seat.tick(now)
            self.tell(topic)
        self._set_timer()


class Topic:
    """A task that clients follow; a `live.Waiter` for its end.

    Args:
        hub: The hub.
        task: A snapshot of it.

    Attributes:
        hub: Like the argument.
        task_id: The id.
        seats: Its clients.
        steps: Its steps.
    """

    reads: bool = False

    def __init__(self, hub: Hub, task: Task) -> None:
        self.task_id: str = str(task.task_id)
        self.seats: dict[Seat, None] = {}
        self.hub = hub
        self.steps = FollowedSteps(hub.core, hub.post, self.task_id, partial(hub.tell, self))
        self._record = source_of(task)
        self._frame = Frame(task)
        self._shown_at = hub.core.clock.monotonic()
        # Whether a change was noted that is not in the frame, and whether seats will be woken.
        self._is_stale = True
        self._is_told = False
        self._awaited: LiveTask | None = None
        self._delayed: asyncio.TimerHandle | None = None
        self._stop_following: Callable[[], object] | None = None

    def open(self) -> None:
        """Begin to follow the task."""
        record = self._record
        if isinstance(record, LiveTask):
            self._await(record)
        elif not record.status.is_final:
            self._follow()

    def close(self) -> None:
        """Stop following it."""
        self.steps.close()
        if self._awaited is not None:
            self.hub.core.ledger.unregister(self._awaited, self)
            self._awaited = None
        if self._stop_following is not None:
            self._stop_following()
            self._stop_following = None
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None

    def frame(self) -> Frame:
        """Return the newest state."""
        record = self._record
        # What was given away is INTERRUPTED here, and goes on elsewhere.
        if self._is_stale and not (isinstance(record, LiveTask) and record.was_given_away):
            core = self.hub.core
            self._is_stale = False
            self._shown_at = core.clock.monotonic()
            copy = core.ledger.snapshot(record)
            self._frame = Frame(Task(copy, source=record, scene=core.scene))
        return self._frame

    # -- a task of this process

    def _await(self, task: LiveTask) -> None:
        self.steps.follow_here(task)
        if self.hub.core.ledger.register(task, self):
            self._awaited = task

    def wake(self) -> None:
        """Note that the task has changed, or has ended; any thread."""
        self.hub.post(self._change)

    def wake_soon(self) -> None:
        """Note that the progress has changed; any thread."""
        # It is cleared before the record is read, so no change is missed.
        if not self._is_told:
            self._is_told = True
            self.hub.post(self._change)

    def nudge(self) -> None:
        """Do nothing: no thread is blocked that could run the task."""

    def _change(self) -> None:
        """Wake the clients; after a change of the progress alone, when the gap is over."""
        record, hub = self._record, self.hub
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None
        if isinstance(record, LiveTask) and record.was_given_away:
            self._follow()
            return
        gap = self._shown_at + _GAP - hub.core.clock.monotonic()
        if hub.in_real_time and gap > 0 and mark_of(record) == self._frame.mark:
            self._delayed = hub.loop.call_later(gap, self._show)
        else:
            self._show()

    def _show(self) -> None:
        self._delayed = None
        self._is_told, self._is_stale = False, True
        self.hub.tell(self)

    # -- a task of another process

    def _follow(self) -> None:
        """Follow the task in another process."""
        others = self.hub.core.others
        self.close()
        if not others.exist or self.hub.core.ledger.state != "running":
            self._end()
            return
        self._stop_following = others.follow(self.task_id, self._heard)
        self.steps.follow_elsewhere(self._record)

    def _heard(self, record: TaskRecord | None) -> None:
        """Take in what is known of the task; on another thread."""
        self.hub.post(partial(self._take_in, record))

    def _take_in(self, record: TaskRecord | None) -> None:
        if self._stop_following is None:
            return
        own = self.hub.core.ledger.find_live(self.task_id)
        if own is not None:
            # This process has taken it over.
            self.close()
            self._record = own
            self._await(own)
        elif record is None:
            self._end()
            return
        else:
            self._record = record
        self._change()

    def _end(self) -> None:
        for seat in list(self.seats):
            seat.end()


@dataclass(slots=True, eq=False)
class Seat:
    """One client of a task, on the thread of its loop.

    Attributes:
        topic: The task.
        seen: The id of the last state that the client got; "" for none.
        seen_steps: Which state of the steps it got last; 0 for none.
        is_gone: Whether the client is not to be sent anything more.
        on_slow: Called once if the client takes nothing for too long.
    """

    topic: Topic
    seen: str = ""
    seen_steps: int = 0
    is_gone: bool = False
    on_slow: Callable[[], object] = bool
    _ended: bool = False
    _queued: bool = False
    _beats: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    # Since when it is being sent something; None while there is nothing to send.
    _busy_since: float | None = None

    async def next(self) -> Frame | StepsFrame | None:
        """Suspend until there is a new state, or new steps; None if a comment is due.

        The state of now comes before its steps, and the final one after them.

        Raises:
            EndOfStreamError: If the stream is to end.
        """
        hub = self.topic.hub
        self._busy_since = None
        while not self.is_gone:
            frame, steps = self.topic.frame(), self.topic.steps
            has_steps = steps.number != self.seen_steps
            if frame.id != self.seen and not (frame.is_final and has_steps):
                self._busy_since = hub.core.clock.monotonic()
                self.seen = frame.id
                return frame
            if has_steps:
                self._busy_since = hub.core.clock.monotonic()
                self.seen_steps = steps.number
                return steps.frame()
            if self._ended or hub.leaving:
                break
            if self._beats:
                self._busy_since = hub.core.clock.monotonic()
                self._beats = False
                return None
            self._news.clear()
            await self._news.wait()
        raise EndOfStreamError

    def is_to_wake(self) -> bool:
        """Return whether it is not queued to be woken; the caller queues it then."""
        was_queued, self._queued = self._queued, True
        return not was_queued

    def wake(self) -> None:
        """Let it look for a new state."""
        self._queued = False
        self._news.set()

    def end(self) -> None:
        """End the stream once the client has the newest state."""
        self._ended = True
        self.wake()

    def drop(self) -> None:
        """End the stream, without sending anything more."""
        self.is_gone = True
        self.wake()

    def tick(self, now: float) -> None:
        """Send the client a comment, or drop it if it takes nothing."""
        self._beats = True
        busy_since = self._busy_since
        if busy_since is not None and now - busy_since >= PATIENCE and not self.is_gone:
            self.is_gone = True
            self.on_slow()


class EndOfStreamError(Exception):
    """A stream ends."""
