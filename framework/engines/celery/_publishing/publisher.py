"""Publishing to the broker: one thread behind a bounded queue, so that nobody waits for it.

A task is noted in Redis first, and then sent. All that is queued is noted as soon as possible,
although sending takes longer: what Redis has outlives this process, since a worker sends it then.

Guarantees: every task that was queued is published, or ends with an error or CANCELLED, here and
in Redis; while the broker is unavailable each task that is to be published gives that as its
reason.
Relies on: a broker connection of its own, whose calls block for a few seconds at most; the
lease and the end in Redis, which make a second copy of a message do nothing. A call that
failed may have had its effect, so messages may be sent twice, but never go missing.
Lock order: `_condition` is innermost: neither host, Redis nor broker is called under it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain, count, islice
from typing import Final, Literal, TypeAlias

from framework._records.jsonsafe import safe_str
from framework._records.statuses import TaskStatus
from framework._tasks.places import PlaceRequest
from framework._threads.clock import SystemClock
from framework._threads.outflow import Outflow
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing.sender import Sender
from framework.exceptions import BrokerUnavailableError, QueueFullError
from framework.protocols import EngineHost, EngineTask

_LOGGER = logging.getLogger("asyncframe")

_BATCH: Final = 100
"""How many tasks to note in one round trip."""

_FEW: Final = 50
"""How many messages to send before new tasks are noted."""

PATIENCE: Final = 5.0
"""Seconds for which a submission waits until Redis has its task."""

Told: TypeAlias = Callable[[BaseException | None], object]

_UNAVAILABLE: Final = "broker unavailable since "

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class Queued:
    """What is to be done with a task.

    Attributes:
        task: The task.
        task_id: Its id.
        move: ``publish``, ``keep`` it in Redis until it is published, or ``retire`` it from there
            since it has ended here.
        due: Wall second before which a kept one is not to be published; None for no delay.
        requests: The places that a kept one needs.
        message: What to send, once Redis has the task; None before.
        since: Monotonic second from which somebody waits until Redis has it.
        told: Who waits for that; each is called with None, or with why it takes too long.
    """

    __slots__ = ("due", "message", "move", "requests", "since", "task", "task_id", "told")

    def __init__(
        self,
        task: EngineTask,
        move: Literal["publish", "keep", "retire"] = "publish",
        due: float | None = None,
        requests: Sequence[PlaceRequest] = (),
    ) -> None:
        self.task = task
        self.task_id: str = task.task_id
        self.move = move
        self.due = due
        self.requests = requests
        self.message: Message | None = None
        self.since = 0.0
        self.told: list[Told] = []


class Publisher:
    """Publishes queued tasks.

    Args:
        sender: Sends one message.
        note: Writes to Redis what is queued, and returns the messages that are to be sent by id;
            blocks.
        published: Marks the messages of some ids as sent there; blocks.
        repeated: Marks the message of an id as possibly sent twice; blocks.
        host: Receives the reports about tasks.
        size: How many tasks may be queued.
        timeout: Seconds for which a task waits for an unavailable broker.
    """

    def __init__(
        self,
        sender: Sender,
        note: Callable[[list[Queued]], Mapping[str, Message]],
        published: Callable[[list[str]], None],
        repeated: Callable[[str], None],
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
        self._condition = threading.Condition(threading.Lock())
        # What Redis does not know yet, and what it has, but was not sent. A task stays there
        # until it is sent, so that it can be withdrawn until then.
        self._fresh: dict[str, Queued] = {}
        self._noted: dict[str, Queued] = {}
        # How many tasks have left them, for the next one that finds them full.
        self._gone = 0
        self._outflow = Outflow(self._clock.monotonic)
        self._sending = ""
        # Why the broker is unavailable, "" while it works; and whether that was seen by sending.
        self._down = ""
        self._unsent = False
        self._closed = False
        self._give_up = False
        self._retry = threading.Event()
        self._thread: threading.Thread | None = None

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
            with self._condition:
                raise QueueFullError(self._size, self._outflow.next_place(self._gone))

    def put(self, queued: Queued) -> None:
        """Queue what is to be done with a task, in place of what was; never blocks.

        Raises:
            RuntimeError: If the publisher is closed.
        """
        with self._condition:
            if self._closed:
                raise RuntimeError("the engine is closed and does not publish any more")
            is_queued = queued.task_id in self._fresh or queued.task_id in self._noted
            if queued.move == "keep" and is_queued:
                return  # it was started already
            self._add(queued)
        # After the lock: `_broken` reports to all that are queued when it sets this, and
        # whoever comes later sees it here.
        if self._down and queued.move == "publish":
            self._host.waiting(queued.task_id, self._down)

    def secure(self, task_id: str, told: Told) -> None:
        """Call *told* with None once Redis has a task, or with why it does not; any thread."""
        with self._condition:
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
        with self._condition:
            if task.task_id in self._fresh or task.task_id in self._noted or kept:
                self._add(Queued(task, "retire"))

    def withdraw(self, task_id: str) -> bool:
        """Let a task that is queued end CANCELLED in Redis; False if it is being sent now."""
        with self._condition:
            # While the broker is unavailable, "being sent" may last for minutes.
            if task_id == self._sending and not self._down:
                return False
            found = self._fresh.get(task_id) or self._noted.get(task_id)
            if found is not None:
                self._add(Queued(found.task, "retire"))
        return found is not None

    @property
    def fault(self) -> str:
        """Why the broker is unavailable; "" while it works, as far as the last message tells."""
        return self._down

    def flush(self) -> None:
        """Block until everything is published, or the broker turns out to be unavailable."""
        with self._condition:
            while len(self) and not self._down and not self._closed:
                self._condition.wait()

    def close(self, patience: float) -> None:
        """Publish what is queued for at most *patience* seconds; the rest ends CANCELLED."""
        with self._condition:
            self._closed = True
            thread = self._thread
            self._condition.notify_all()
        if thread is not None:
            # First ends a pause between two tries, so that the thread uses its last seconds.
            self._retry.set()
            thread.join(patience)
            # In this order: the thread looks at `_give_up` after each try, before it pauses.
            self._give_up = True
            self._retry.set()
            # A call may still be in progress, and the process cannot wait for it forever.
            thread.join(_LAST)
        with self._condition:
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
        if left and not self._down:
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
        # Only now: a process that submits nothing, such as most children of workers, has
        # no such thread.
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="asyncframe-publisher", daemon=True
            )
            self._thread.start()
        elif len(self) == 1:  # the thread sleeps only while nothing is queued
            self._condition.notify_all()

    # -- the thread

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    while not len(self) and not self._closed:
                        self._condition.wait()
                    if not len(self) or self._give_up:
                        return
                if self._fresh:
                    self._insist(self._write)
                self._send_some()
        finally:
            self._sender.close()

    def _write(self) -> None:
        """Write the first of the tasks that Redis does not have to it, in one round trip.

        Raises:
            Exception: What Redis raises while it is unavailable.
        """
        with self._condition:
            batch = list(islice(self._fresh.values(), _BATCH))
        wanted = [one for one in batch if one.move == "retire" or not one.task.status.is_final]
        messages = self._note(wanted) if wanted else {}
        told: list[Told] = []
        with self._condition:
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
            if not len(self):
                self._condition.notify_all()
        for call in told:
            call(None)

    def _send_some(self) -> None:
        """Send some of the messages whose tasks Redis has."""
        with self._condition:
            some = list(islice(self._noted.values(), _FEW))
        sent: list[str] = []
        for one in some:
            if one.task.status.is_final:  # another process has cancelled it
                self._drop(one)
                continue
            if not self._begin(one):
                continue
            if not self._insist(partial(self._send, one, count()), one.task):
                break
            if not one.task.status.is_final:
                sent.append(one.task_id)
                one.task.engine_note = None
                # Not another one: a worker may have reported on the task already.
                if one.task.reason.startswith(_UNAVAILABLE):
                    self._host.waiting(one.task_id, "")
            self._drop(one)
        self._sending = ""
        if sent:
            with suppress(Exception):  # Redis is unavailable; at worst they are sent once more
                self._published(sent)

    def _begin(self, one: Queued) -> bool:
        """Mark a task as being sent; False if it was withdrawn."""
        # In one step with the look, so that `withdraw` comes either before or too late.
        with self._condition:
            found = self._noted.get(one.task_id) is one
            if found:
                self._sending = one.task_id
        return found

    def _drop(self, one: Queued) -> None:
        """Remove a task that was sent, unless it has ended meanwhile, which Redis is told next."""
        with self._condition:
            if self._noted.get(one.task_id) is one:
                del self._noted[one.task_id]
                self._gone += 1
            if not len(self):
                self._condition.notify_all()

    def _send(self, one: Queued, tries: count[int]) -> None:
        assert one.message is not None
        if next(tries):
            with suppress(Exception):  # then the broker is the same, and the next line says so
                # Whatever comes while only the broker is away is to outlive this process, too.
                self._write()
            # The failed try may have sent it; Redis must then remember the end for longer.
            self._repeated(one.task_id)
        self._sender.send(one.message)

    def _insist(self, call: Callable[[], object], task: EngineTask | None = None) -> bool:
        """Repeat a call to the broker until it succeeds; False if the publisher gives up.

        Args:
            call: May raise anything.
            task: Stop, with True, when this task is final; None to give up when nothing is
                queued.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                call()
            except Exception as error:  # whatever the transport raises, it is unavailable
                self._unsent |= task is not None
                self._broken(error)
            else:
                if task is not None or not self._unsent:
                    self._mended()
                return True
            if self._give_up or (task is None and not len(self)):
                return False
            if task is not None and task.status.is_final:
                return True
            self._retry.wait(pause)
            self._retry.clear()
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _broken(self, error: Exception) -> None:
        """Report that the broker is unavailable, and end tasks that have waited too long."""
        began, down = not self._down, self._down or self._unavailable(error)
        # In one step: a task that is queued later sees the reason by itself; see `put`.
        with self._condition:
            self._down = down
            queued = self._to_publish()
            impatient = self._impatient()
            if began:
                self._condition.notify_all()
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
                f"{self._down}; the task was given up after {self._timeout:g} s "
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

    def _unavailable(self, error: Exception) -> str:
        since = datetime.fromtimestamp(self._clock.time(), UTC).isoformat(timespec="seconds")
        return f"{_UNAVAILABLE}{since}: {safe_str(error, 200)}"

    def _mended(self) -> None:
        if not self._down:
            return
        _LOGGER.info("the broker is back")
        # First: a task that is queued meanwhile reports nothing, or is among those below.
        self._down, self._unsent = "", False
        with self._condition:
            queued = self._to_publish()
        for task in queued:
            self._host.waiting(task.task_id, "")


_LAST: Final = 0.5
