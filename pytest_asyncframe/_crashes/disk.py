"""The store of an app whose process may die: what was committed is there for the next one.

A `Disk` is what outlives each process of a test. A `ProcessStore` is the store of one of them. It
commits on a thread of its own, one change at a time and in the order of the calls, so that points
between them are the same in each run. Nobody else shares the disk: the next process opens it once
the one before is dead, and so takes over what that has left.

Guarantees: what a commit has changed is seen as a whole or not at all. A process that is dead
changes nothing.
Relies on: a framework that stops once it is dead, in the middle of whatever it does.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from framework import TaskCancelledError, TaskInterruptedError
from framework.protocols import (
    Features,
    MessageCameError,
    MessageRecord,
    Restart,
    Sent,
    StepChange,
    StepRecord,
    StoreHost,
    TaskRecord,
    TaskStatus,
    awaited_tasks,
    decode_result,
    dump_record,
    encode_result,
    find_function,
    message_names,
)
from framework.testing import mirror

T = TypeVar("T")

_MOST = 65_536
"""How many bytes of the arguments of a task are kept."""


class Commits(Protocol):
    """What a store commits by."""

    def post(self, job: Callable[[], object]) -> None:
        """Call *job* after those before it, on the thread of the store; never blocks."""

    def point(self, what: str) -> None:
        """Die here, if this is where the process is to die."""

    def noted(self, record: TaskRecord) -> None:
        """Take note of a live task."""

    def stored(self, record: TaskRecord) -> None:
        """Take note of a record that was committed."""


@dataclass(eq=False)
class DiskMessage:
    """A message to a task.

    Attributes:
        record: It.
        key: Its sender's key; None for none.
        taken: Whether a step has received it.
    """

    record: MessageRecord
    key: str | None
    taken: bool = False


@dataclass(eq=False)
class Disk:
    """What was committed.

    Attributes:
        records: The tasks by their ids, in the order in which they came.
        restarts: The call and the facts of those that another process may run, by their ids.
        calls: The arguments of tasks, by their ids.
        steps: Their steps, by their ids.
        messages: The messages to them, by their ids.
    """

    records: dict[str, TaskRecord] = field(default_factory=dict)
    restarts: dict[str, tuple[str, str]] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    steps: dict[str, list[StepRecord]] = field(default_factory=dict)
    messages: dict[str, list[DiskMessage]] = field(default_factory=dict)

    def write(self, record: TaskRecord) -> None:
        """Keep a record, which does not change any more."""
        task_id, restart = str(record.task_id), record.restart
        if record.run_again_of and task_id not in self.records:
            self._carry(record.run_again_of, task_id)
        self.records[task_id] = record
        if record.status.is_final or restart is None:
            self.restarts.pop(task_id, None)
        else:
            self.restarts[task_id] = restart.call, restart.facts()

    def _carry(self, old: str, new: str) -> None:
        """Let a task go on from the steps of another one, with the messages to that."""
        self.steps[new] = [replace(one) for one in self.steps.get(old, ()) if one.state != "ended"]
        self.messages[new] = [replace(one) for one in self.messages.get(old, ())]

    def mail(self, task_id: str) -> list[MessageRecord]:
        """Return the messages to a task that no step has taken."""
        return [one.record for one in self.messages.get(task_id, ()) if not one.taken]

    def left(self, task_id: str) -> TaskRecord | None:
        """Return a task that a dead process has left, for the next one to run; None if it ends.

        One that had started begins anew only if it may run twice, as one does that goes on.
        """
        record, kept = self.records[task_id], self.restarts.get(task_id)
        if kept is None:
            return None
        restart = Restart.of(*kept)
        if record.status is not TaskStatus.PENDING and not restart.idempotent:
            return None
        free = mirror(record)
        free.status, free.started = TaskStatus.PENDING, None
        free.progress, free.progress_message = None, ""
        free.restart = restart
        return free


class ProcessStore:
    """The store of one process; see `protocols.SharedStore` and the optional protocols.

    Args:
        disk: What is there.
        commits: How it commits.

    Attributes:
        durable: True: each submission that can wait for its commit does.
        keep_arguments: See `protocols.CallStore`.
    """

    durable: bool = True
    keep_arguments: int = _MOST

    def __init__(self, disk: Disk, commits: Commits) -> None:
        self._disk = disk
        self._commits = commits
        self._host: StoreHost | None = None
        # Of this process, also those whose end is not committed yet.
        self._ended: dict[str, TaskRecord] = {}
        # Those that have left for a time or a message, until then.
        self._asleep: dict[str, TaskRecord] = {}

    @property
    def features(self) -> Features:
        """What it can do; see `protocols.Featured`."""
        return Features(
            shared=self, calls=self, requeue=self, steps=self, messages=self, directory=self
        )

    # -- beginning and ending

    def open(self, host: StoreHost) -> None:
        """Begin to commit."""
        self._host = host

    def close(self, patience: float) -> None:
        """Do nothing: what was posted is committed in its turn."""

    def take_over(self) -> None:
        """Run what the process before has left, or end it INTERRUPTED; once the app is there."""
        host, disk = self._host, self._disk
        assert host is not None
        taken, lost = [], []
        for task_id, record in list(disk.records.items()):
            if record.status.is_final:
                continue
            free = disk.left(task_id)
            if free is not None and free.restart is not None and free.restart.due is not None:
                self._let_sleep(free)
            elif free is not None:
                taken.append(free)
            else:
                lost.append(self._interrupted(record, host.clock.monotonic()))
        for record in lost:
            disk.write(record)
            self._commits.stored(record)
        host.buried(lost)
        host.take_over(taken)

    def _interrupted(self, record: TaskRecord, now: float) -> TaskRecord:
        ended = mirror(record)
        ended.status, ended.ended = TaskStatus.INTERRUPTED, now
        ended.error = TaskInterruptedError(record.task_id, record.name)
        ended.reason = "its process was killed"
        return ended

    # -- what the framework tells

    def note(self, record: TaskRecord) -> None:
        """Commit what is new of a live task, unless the disk has it already."""
        self._commits.noted(record)
        self._commits.post(lambda: self._commit(record))

    def _commit(self, record: TaskRecord) -> None:
        restart: Restart | None = record.restart
        if record.status.is_final or (restart is not None and restart.state != "own"):
            return
        assert self._host is not None
        kept = self._host.snapshot(record)
        if restart is not None and restart.started is not None and kept.started is None:
            # Its start is stored, and it has not heard of that.
            _begin(kept, restart.started)
        before = self._disk.records.get(str(kept.task_id))
        if before is None:
            call = self._host.call_of(record, self.keep_arguments)
            if call is not None:
                self._disk.calls[str(kept.task_id)] = call
            self._write(kept, f"{short(kept.name)} is stored")
        elif dump_record(before) != dump_record(kept):
            self._write(kept, f"a change of {short(kept.name)} is stored")

    def _write(self, record: TaskRecord, what: str) -> None:
        self._commits.point(f"before {what}")
        if record.restart is not None:
            record.restart = replace(record.restart)
        self._disk.write(record)
        self._commits.point(f"after {what}")
        if record.status.is_final:
            for task_id, one in list(self._asleep.items()):
                if record.task_id in awaited_tasks(one.reason):
                    self._wake(task_id)
        self._commits.stored(record)

    def put(self, record: TaskRecord) -> None:
        """Commit the end of a task."""
        self._ended[str(record.task_id)] = record
        self._commits.post(lambda: self._write_end(record))

    def _write_end(self, record: TaskRecord) -> None:
        self._write(mirror(record), f"the end of {short(record.name)} is stored")

    def secure(self, record: TaskRecord, told: Callable[[BaseException | None], None]) -> None:
        """Call *told* once all is committed that was posted before."""
        self._commits.post(lambda: told(None))

    def start(self, record: TaskRecord, told: Callable[[bool], None]) -> None:
        """Commit that a task starts; see `protocols.RequeueStore`."""
        self._commits.post(lambda: self._start(record, told))

    def _start(self, record: TaskRecord, told: Callable[[bool], None]) -> None:
        restart: Restart | None = record.restart
        if restart is None or restart.state != "own" or record.status is not TaskStatus.PENDING:
            told(False)
            return
        assert self._host is not None
        now = self._host.clock.monotonic()
        restart.begin(now)
        kept = self._host.snapshot(record)
        _begin(kept, now)
        self._write(kept, f"the start of {short(kept.name)} is stored")
        told(True)

    def release(self, record: TaskRecord) -> None:
        """Commit that a task is free; see `protocols.RequeueStore`."""
        self._commits.post(lambda: self._release(mirror(record)))

    def _release(self, record: TaskRecord) -> None:
        self._write(record, f"{short(record.name)} is set free")
        restart: Restart | None = record.restart
        if restart is not None and restart.due is not None:
            self._let_sleep(record)

    def _let_sleep(self, record: TaskRecord) -> None:
        """Keep a free task until it is due, or a message is there that it waits for."""
        host, restart, task_id = self._host, record.restart, str(record.task_id)
        assert host is not None
        assert restart is not None
        assert restart.due is not None
        self._asleep[task_id] = record
        names = message_names(record.reason)
        has_ended = any(map(self._has_ended, awaited_tasks(record.reason)))
        if has_ended or any(one.name in names for one in self._disk.mail(task_id)):
            self._wake(task_id)
        else:
            at = host.clock.monotonic() + max(0.0, restart.due - host.clock.time())
            host.clock.call_at(at, lambda: self._commits.post(lambda: self._wake(task_id)))

    def _has_ended(self, task_id: str) -> bool:
        record = self._disk.records.get(task_id)
        return record is None or record.status.is_final

    def _wake(self, task_id: str) -> None:
        free = None if self._asleep.pop(task_id, None) is None else self._disk.left(task_id)
        restart: Restart | None = None if free is None else free.restart
        if free is not None and restart is not None:
            assert self._host is not None
            restart.due = None
            self._host.take_over([free])

    def settle(self, record: TaskRecord, result: Any) -> Any:  # whatever the task returned
        """Return a result as it is read again; see `protocols.SharedStore`."""
        function = find_function(record.name)
        return decode_result(function, encode_result(function, result))

    # -- steps; see `protocols.StepStore`

    def fetch_steps(self, task_id: str) -> Sequence[StepRecord]:
        """Return the steps of a task, in the order in which they ended."""
        return [replace(one) for one in self._disk.steps.get(task_id, ())]

    def store_steps(
        self,
        task_id: str,
        records: Sequence[StepRecord],
        told: Callable[[BaseException | None], object],
        change: StepChange | None = None,
        fails: Callable[[Exception], object] | None = None,
    ) -> None:
        """Commit steps that have ended."""
        kept, with_them = [replace(one) for one in records], change or StepChange()
        self._commits.post(lambda: self._store_steps(task_id, kept, told, with_them))

    def _store_steps(
        self,
        task_id: str,
        kept: Sequence[StepRecord],
        told: Callable[[BaseException | None], object],
        change: StepChange,
    ) -> None:
        if change.unless and any(one.name == change.unless for one in self._disk.mail(task_id)):
            told(MessageCameError())
            return
        # There is no point before it: there is one at the end of the body.
        stored = self._disk.steps.setdefault(task_id, [])
        numbers = {*(one.number for one in kept), *change.instead_of}
        for message in self._disk.messages.get(task_id, ()):
            message.taken |= message.record.number in change.takes
        stored[:] = [one for one in stored if one.number not in numbers] + list(kept)
        for one in stored:
            if one.number in change.retires:
                one.state = "ended"
        what = short(kept[-1].function) if kept else "how an attempt has ended"
        self._commits.point(f"after the commit of {what}")
        told(None)

    # -- messages; see `protocols.MessageStore`

    def fetch_messages(self, task_id: str) -> Sequence[MessageRecord]:
        """Return the messages of a task that no step has taken."""
        return self._disk.mail(task_id)

    def send_message(self, task_id: str, name: str, value: str, key: str | None) -> Sent:
        """Commit a message to a task, and wake it if it waits for that."""
        return self._ask(lambda: self._send(task_id, name, value, key))

    def _ask(self, call: Callable[[], T]) -> T:
        """Return what *call* returns on the thread of the store; blocks."""
        told, answers = threading.Event(), list[T]()

        def answer() -> None:
            answers.append(call())
            told.set()

        self._commits.post(answer)
        told.wait()
        return answers[0]

    def _send(self, task_id: str, name: str, value: str, key: str | None) -> Sent:
        task = self._disk.records.get(task_id)
        if task is None:
            return "unknown"
        kept = self._disk.messages.setdefault(task_id, [])
        for one in kept:
            if key is not None and (one.record.name, one.key) == (name, key):
                return "again" if one.record.value == value else "other"
        if task.status.is_final:
            return "ended"
        self._commits.point(f"before message {name} is stored")
        kept.append(DiskMessage(MessageRecord(len(kept) + 1, name, value), key))
        self._commits.point(f"after message {name} is stored")
        asleep = self._asleep.get(task_id)
        if asleep is not None and name in message_names(asleep.reason):
            self._wake(task_id)
        return "sent"

    # -- what the framework asks

    def get(self, task_id: str) -> TaskRecord | None:
        """Return the record of a finished task; None if there is none."""
        found = self._ended.get(task_id) or self._disk.records.get(task_id)
        return found if found is not None and found.status.is_final else None

    def list(self, status: TaskStatus | None = None) -> list[TaskRecord]:
        """Return the finished tasks, in the order in which they came."""
        every = {**self._disk.records, **self._ended}
        found = [one for one in every.values() if one.status.is_final]
        return [one for one in found if status is None or one.status is status]

    def remove(
        self,
        *,
        ended_before: float | None = None,
        keep: int | None = None,
        completed: bool = True,
    ) -> tuple[int, Sequence[TaskRecord]]:
        """Remove the oldest records; see `protocols.TaskStore`."""
        found = sorted(self.list(), key=lambda one: one.ended or 0.0)
        surplus = 0 if keep is None else max(0, len(found) - keep)
        old = [
            one
            for place, one in enumerate(found)
            if place < surplus or (ended_before is not None and (one.ended or 0.0) <= ended_before)
        ]
        for one in old:
            task_id = str(one.task_id)
            self._ended.pop(task_id, None)
            disk = self._disk
            for kept in (disk.records, disk.calls, disk.steps, disk.messages):
                kept.pop(task_id, None)
        return len(old), old

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the records of some ids."""
        found = (self._disk.records.get(one) for one in task_ids)
        return [mirror(one) for one in found if one is not None]

    def fetch_call(self, task_id: str) -> str | None:
        """Return the arguments of a task; see `protocols.CallStore`."""
        return self._disk.calls.get(task_id)

    def request_cancel(self, task_id: str) -> bool:
        """Let a task that has left go on, so that it is cancelled where its code stands.

        All other live tasks are this process's.
        """
        return self._ask(lambda: self._cancel(task_id, TaskStatus.PENDING))

    def cancel_at_once(self, task_id: str) -> bool:
        """Cancel a task that has left; see `protocols.StepStore`."""
        return self._ask(lambda: self._cancel(task_id, TaskStatus.CANCELLED))

    def _cancel(self, task_id: str, status: TaskStatus) -> bool:
        asleep = self._asleep.get(task_id)
        restart: Restart | None = None if asleep is None else asleep.restart
        if asleep is None or restart is None:
            return False
        asked = mirror(asleep)
        if status is TaskStatus.PENDING and restart.stands:
            asked.cancel_waits = True
            self._write(asked, f"the request to cancel {short(asked.name)} is stored")
            self._wake(task_id)
            return True
        assert self._host is not None
        self._asleep.pop(task_id)
        asked.status, asked.ended = TaskStatus.CANCELLED, self._host.clock.monotonic()
        asked.cancel_requested = True
        asked.error = TaskCancelledError(asked.task_id, asked.name)
        asked.reason = "it was cancelled while it waited to go on"
        self._write(asked, f"the end of {short(asked.name)} is stored")
        self._host.buried([asked])
        return True

    def figures(self) -> dict[str, int]:
        """Return how many records of each status there are, without this process's live ones."""
        return dict(Counter(one.status.value for one in self.list()))

    def is_alone(self) -> bool:
        """Return True: no other process lives."""
        return True

    def doubt(self) -> Exception | None:
        """Return None: it misses nothing."""
        return None


def _begin(record: TaskRecord, started: float) -> None:
    record.status, record.started = TaskStatus.RUNNING, started
    record.attempts += 1


def short(name: str) -> str:
    """Return the last part of a function's name."""
    return name.rpartition(".")[2]
