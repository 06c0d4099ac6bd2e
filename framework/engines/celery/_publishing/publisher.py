"""Publishing to the broker: one thread behind a bounded queue, so that nobody waits for it.

A task is noted in Redis first, and then sent. All that is queued is noted as soon as possible,
although sending takes longer: what Redis has outlives this process, since a worker sends it then.

Guarantees: every task that was queued is published, or ends with an error or CANCELLED, here and
in Redis; while the broker is unavailable each task that is to be published gives that as its
reason.
Relies on: a broker connection of its own, whose calls block for a few seconds at most; the
lease and the end in Redis, which make a second copy of a message do nothing. A call that
failed may have had its effect, so messages may be sent twice, but never go missing.
Lock order: `_lock`, and under it that of the courier; neither host, Redis nor broker is called
under them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Final, Literal, TypeAlias

from framework._records.jsonsafe import safe_str
from framework._records.statuses import TaskStatus
from framework._tasks.places import PlaceRequest
from framework._threads.clock import SystemClock
from framework._threads.courier import Courier
from framework._threads.loggers import SafeLogger
from framework._threads.watch.outflow import Outflow
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing.sender import Sender
from framework.exceptions import BrokerUnavailableError, QueueFullError
from framework.protocols import EngineHost, EngineTask

_LOGGER = SafeLogger("asyncframe")

_BATCH: Final = 100
"""How many tasks to note in one round trip."""

_FEW: Final = 50
"""How many messages to send before new tasks are noted."""

PATIENCE: Final = 5.0
"""Seconds for which a submission waits until Redis has its task."""

Told: TypeAlias = Callable[[BaseException | None], object]

_UNAVAILABLE: Final = "broker unavailable since "


@dataclass(slots=True, eq=False)
class Queued:
    """What is to be done with a task.

    Attributes:
        task: The task.
        move: ``publish``, ``keep`` it in Redis until it is published, or ``retire`` it from there
            since it has ended here.
        due: Wall second before which a kept one is not to be published; None for no delay.
        requests: The places that a kept one needs.
        message: What to send, once Redis has the task; None before.
        since: Monotonic second from which somebody waits until Redis has it.
        told: Who waits for that; each is called with None, or with why it takes too long.
    """

    task: EngineTask
    move: Literal["publish", "keep", "retire"] = "publish"
    due: float | None = None
    requests: Sequence[PlaceRequest] = ()
    message: Message | None = None
    since: float = 0.0
    told: list[Told] = field(default_factory=list)

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return self.task.task_id


class Publisher:
    """Publishes queued tasks.

    Args:
        sender: Sends one message.
        note: Writes to Redis what is queued, and returns the messages that are to be sent by id;
            blocks.
        published: Marks the messages of some ids as sent there; blocks.
        repeated: Marks the messages of some ids as possibly sent twice; blocks.
        host: Receives the reports about tasks.
        size: How many tasks may be queued.
        timeout: Seconds for which a task waits for an unavailable broker.

    Attributes:
        fault: Why the broker is unavailable; "" while it works, as far as the last message tells.
    """

    def __init__(
        self,
        sender: Sender,
        note: Callable[[list[Queued]], Mapping[str, Message]],
        published: Callable[[list[str]], None],
        repeated: Callable[[Collection[str]], None],
        host: EngineHost,
        size: int,
        timeout: float,
    ) -> None:
        self._sender = sender
        self._note = note
        self._published = published
        self._repeated = repeated
        self._host = host
        self._size = size
        self._timeout = timeout
        self._clock = SystemClock()
        self._lock = threading.Lock()
        # What Redis does not know yet, and what it has, but was not sent. A task stays there
        # until it is sent, so that it can be withdrawn until then.
        self._fresh: dict[str, Queued] = {}
        self._noted: dict[str, Queued] = {}
        # How many tasks have left them, for the next one that finds them full.
        self._gone = 0
        self._outflow = Outflow(self._clock.monotonic)
        self._sending: frozenset[str] = frozenset()
        # Whose messages the broker may have, although it gave an error.
        self._unsure: set[str] = set()
        # Whose messages were sent, which Redis does not know yet.
        self._sent: list[str] = []
        self.fault: str = ""
        self._closed = False
        self._courier = Courier(
            "asyncframe-publisher", self._turn, failed=self._broken, ended=sender.close
        )

    # -- any thread

    def __len__(self) -> int:
        return len(self._fresh) + len(self._noted)

    def require_room(self) -> None:
        """Check that one more task may be queued.

        Raises:
            QueueFullError: If not.
        """
        # Without the lock: every submission asks, and threads that ask at the same moment may
        # exceed the bound by one each.
        if len(self._fresh) + len(self._noted) >= self._size:
            with self._lock:
                raise QueueFullError(self._size, self._outflow.next_place(self._gone))

    def put(self, queued: Queued) -> bool:
        """Queue what is to be done with a task, in place of what was; never blocks.

        Returns:
            Whether it will be done, or has been; False once the publisher is closed.
        """
        with self._lock:
            if self._closed:
                return False
            before = self._fresh.get(queued.task_id)
            if before is not None and before.move == "retire":
                return True  # it has ended meanwhile, and Redis may have it
            is_queued = before is not None or queued.task_id in self._noted
            if queued.move == "keep" and is_queued:
                return True  # it was started already
            self._add(queued)
        # After the lock: `_broken` reports to all that are queued when it sets this, and
        # whoever comes later sees it here.
        if self.fault and queued.move == "publish":
            self._host.waiting(queued.task_id, self.fault)
        return True

    def secure(self, task_id: str, told: Told) -> None:
        """Call *told* with None once Redis has a task, or with why it does not; any thread."""
        with self._lock:
            queued = self._fresh.get(task_id)
            if queued is not None:
                queued.since = queued.since or self._clock.monotonic()
                queued.told.append(told)
        if queued is None:
            told(None)

    def retire(self, task: EngineTask, *, kept: bool) -> None:
        """End a task in Redis that has ended here, unless Redis does not have it.

        Args:
            task: The task.
            kept: Whether Redis may have it although it is not queued.
        """
        with self._lock:
            if task.task_id in self._fresh or task.task_id in self._noted or kept:
                self._add(Queued(task, "retire"))

    def withdraw(self, task_id: str) -> bool:
        """Let a task that is queued end CANCELLED in Redis; False if it is being sent now."""
        with self._lock:
            # While the broker is unavailable, "being sent" may last for minutes.
            if task_id in self._sending and not self.fault:
                return False
            found = self._fresh.get(task_id) or self._noted.get(task_id)
            if found is not None:
                self._add(Queued(found.task, "retire"))
        return found is not None

    def flush(self) -> None:
        """Block until everything is published, or the broker turns out to be unavailable."""
        self._courier.flush()

    def close(self, patience: float) -> None:
        """Publish what is queued for at most *patience* seconds; the rest ends CANCELLED."""
        with self._lock:
            self._closed = True
        self._courier.close(patience)
        with self._lock:
            left = [*self._noted.values(), *self._fresh.values()]
            self._noted, self._fresh = {}, {}
        for one in left:
            for call in one.told:
                call(BrokerUnavailableError("the framework shut down before Redis had the task"))
            if one.move != "retire":
                self._host.ended(
                    one.task_id,
                    TaskStatus.CANCELLED,
                    self._clock.time(),
                    reason="the framework shut down before it was published",
                )
        if left and not self.fault:
            with suppress(Exception):  # at worst the tasks stay PENDING in Redis
                self._note([Queued(one.task, "retire") for one in left])

    def _add(self, queued: Queued) -> None:
        """Queue what is to be done with a task in place of what was; called with the lock held."""
        before = self._fresh.pop(queued.task_id, None)
        if before is not None:
            # Whoever waits for the first move waits for the next one.
            queued.since, queued.told = before.since, before.told
        self._gone += (before or self._noted.pop(queued.task_id, None)) is not None
        self._fresh[queued.task_id] = queued
        if len(self) == 1:  # the thread sleeps only while nothing is queued
            self._courier.wake()

    # -- the thread

    def _turn(self) -> float | None:
        if self._fresh:
            # Whatever comes while only the broker is away is to outlive this process, too.
            self._write()
            if not self._unsure:
                self._mended()
        self._send_some()
        with self._lock:
            return 0.0 if len(self) else None

    def _write(self) -> None:
        """Write the first of the tasks that Redis does not have to it, in one round trip.

        Raises:
            Exception: What Redis raises while it is unavailable.
        """
        with self._lock:
            batch = list(islice(self._fresh.values(), _BATCH))
        wanted = [one for one in batch if one.move == "retire" or not one.task.status.is_final]
        messages = self._note(wanted) if wanted else {}
        told: list[Told] = []
        with self._lock:
            for one in batch:
                # It may have ended meanwhile, which Redis is told next.
                if self._fresh.get(one.task_id) is one:
                    del self._fresh[one.task_id]
                    told += one.told
                    one.message = messages.get(one.task_id)
                    if one.message is None:
                        self._gone += 1
                    else:
                        self._noted[one.task_id] = one
        for call in told:
            call(None)

    def _send_some(self) -> None:
        """Send some of the messages whose tasks Redis has.

        Raises:
            Exception: What the broker or Redis raises while it is unavailable.
        """
        with self._lock:
            some = list(islice(self._noted.values(), _FEW))
        for batch in self._batches(some):
            self._send(batch)
        if self._sent:
            with suppress(Exception):  # Redis is unavailable; at worst they are sent once more
                self._published(self._sent)
            self._sent = []

    def _batches(self, some: Sequence[Queued]) -> Iterator[list[Queued]]:
        """Yield what is to be sent together, of that which is still there when its turn comes."""
        step = self._sender.at_once() if some else 1
        for begin in range(0, len(some), step):
            batch = some[begin : begin + step]
            for one in batch:
                if one.task.status.is_final:  # another process has cancelled it
                    self._drop(one)
            # In one step with the look, so that `withdraw` comes either before or too late.
            with self._lock:
                there = [one for one in batch if self._noted.get(one.task_id) is one]
                self._sending = frozenset(one.task_id for one in there)
            yield there
            self._sending = frozenset()

    def _drop(self, one: Queued) -> None:
        """Remove a task that was sent, unless it has ended meanwhile, which Redis is told next."""
        with self._lock:
            if self._noted.get(one.task_id) is one:
                del self._noted[one.task_id]
                self._gone += 1

    def _send(self, batch: Sequence[Queued]) -> None:
        """Send the messages of some tasks.

        Raises:
            Exception: What the broker or Redis raises while it is unavailable.
        """
        ids = {one.task_id for one in batch}
        # Those that failed come first again, and all in one batch: none is left behind.
        if again := self._unsure & ids:
            # Redis must remember their ends for longer, since there may be two messages of each.
            self._repeated(again)
        self._unsure = ids
        self._sender.send_all([one.message for one in batch if one.message is not None])
        self._unsure = set()
        self._mended()
        for one in batch:
            self._was_sent(one)

    def _was_sent(self, one: Queued) -> None:
        if not one.task.status.is_final:
            self._sent.append(one.task_id)
            one.task.engine_note = None
            # Not another one: a worker may have reported on the task already.
            if one.task.reason.startswith(_UNAVAILABLE):
                self._host.waiting(one.task_id, "")
        self._drop(one)

    def _broken(self, error: Exception) -> None:
        """Report that the broker is unavailable, and end tasks that have waited too long."""
        began, down = not self.fault, self.fault
        if began:
            since = datetime.fromtimestamp(self._clock.time(), UTC).isoformat(timespec="seconds")
            down = f"{_UNAVAILABLE}{since}: {safe_str(error, 200)}"
        # In one step: a task that is queued later sees the reason by itself; see `put`.
        with self._lock:
            self.fault = down
            queued = self._to_publish()
            impatient = self._impatient()
        late = f"the task was not stored within {PATIENCE:g} s: {safe_str(error, 200)}"
        for call in impatient:
            call(BrokerUnavailableError(late))
        if began:
            for task in queued:
                self._host.waiting(task.task_id, down)
            _LOGGER.warning("%s; tasks that wait to be published: %d", down, len(queued))
        now = self._host.clock.monotonic()
        for task in queued:
            # They are in the order of their submission, so the others came later.
            if now - task.queued < self._timeout:
                break
            told = BrokerUnavailableError(
                f"{self.fault}; the task was given up after {self._timeout:g} s "
                "(publish_timeout): see that the broker runs, and submit it again"
            )
            self._host.ended(
                task.task_id,
                TaskStatus.FAILED,
                self._clock.time(),
                error=told,
                reason="it could not be published",
            )
            # A failed call may have had its effect.
            self.retire(task, kept=True)

    def _impatient(self) -> list[Told]:
        """Return those who have waited too long for Redis; called with the lock held."""
        until, found = self._clock.monotonic() - PATIENCE, list[Told]()
        for one in self._fresh.values():
            if one.told and one.since <= until:
                found += one.told
                one.told = []
        return found

    def _to_publish(self) -> list[EngineTask]:
        """Return the tasks that wait for the broker, and for nothing else, the first ones first."""
        queued = chain(self._noted.values(), self._fresh.values())
        return [one.task for one in queued if one.move == "publish"]

    def _mended(self) -> None:
        if not self.fault:
            return
        _LOGGER.info("the broker is back")
        # First: a task that is queued meanwhile reports nothing, or is among those below.
        self.fault = ""
        with self._lock:
            queued = self._to_publish()
        for task in queued:
            self._host.waiting(task.task_id, "")
