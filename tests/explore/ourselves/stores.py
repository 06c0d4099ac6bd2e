"""Scenarios of stores, and of what asks and publishes for other processes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

from framework._manager.others.other_processes import OtherProcesses
from framework._records.records import TaskRecord, heading_of
from framework._records.statuses import TaskStatus
from framework._threads.waiters import Mailboxes
from framework.exceptions import FrameworkNotStartedError
from framework.stores import memory
from framework.stores.memory import MemoryStore
from framework.stores.sql import _backlog
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._reading.follower import Follower
from framework.stores.sql._reading.mirror import Mirror
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables.rows import TaskRow
from tests.explore.ourselves.run import Run


def record(number: int, status: TaskStatus = TaskStatus.COMPLETED) -> TaskRecord:
    """Return the record of a task that has ended at second *number*."""
    made = TaskRecord()
    made.task_id = f"{number:032x}"
    made.heading = heading_of("task", "")
    made.status = status
    made.created_at = made.created = made.queued = made.started = made.ended = float(number)
    made.attempts, made.instruction = 1, 0
    made.result = made.code = made.rest = None
    return made


def small_blocks(run: Run) -> MemoryStore:
    """Return a memory store that packs two records at a time."""
    run.replace(memory, "_BLOCK", 2)
    run.replace(memory, "_GENERATION", 2)
    return MemoryStore()


def put_or_remove(run: Run) -> None:
    """Records are put, packed and removed at once: each is kept or removed."""
    store, removed = small_blocks(run), list[int]()

    def put(first: int) -> None:
        for number in range(first, first + 4):
            store.put(record(number))

    def remove() -> None:
        removed.append(store.remove(keep=2)[0])

    run.together(lambda: put(1), lambda: put(11), remove)
    assert len(store) + removed[0] == 8
    assert len(store.list()) == len({one.task_id for one in store.list()}) == len(store)


def find_or_pack(run: Run) -> None:
    """A record is looked for while it is packed: it is found at any moment."""
    store = small_blocks(run)
    for number in range(3):
        store.put(record(number))

    def look() -> None:
        for number in range(3):
            found = store.get(f"{number:032x}")
            assert found is not None
            assert found.ended == number

    def read() -> None:
        assert len(store.list()) >= 3
        oldest = store.oldest()
        assert oldest is not None
        assert oldest.ended == 0

    run.together(lambda: store.put(record(3)), lambda: store.put(record(4)), look, read)


def remove_twice(run: Run) -> None:
    """Two threads remove the same old records: each is removed once."""
    store, removed = small_blocks(run), list[int]()
    for number in range(9):
        store.put(record(number))

    def remove() -> None:
        removed.append(store.remove(keep=1)[0])

    run.together(remove, remove)
    assert (sum(removed), len(store)) == (8, 1), removed


class Elsewheres:
    """A directory that knows one task."""

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return its record."""
        return [record(1)] if f"{1:032x}" in task_ids else []

    def request_cancel(self, task_id: str) -> bool:
        """Do nothing."""
        return False


def ask_or_close(run: Run) -> None:
    """Threads ask for tasks of other processes as the framework stops: each is answered."""
    elsewhere = OtherProcesses([Elsewheres()], run.clock, Mailboxes(), run.clock)
    answers: list[object] = []

    def ask(number: int) -> None:
        try:
            answers.append(elsewhere.block_until_final(f"{number:032x}", None))
        except FrameworkNotStartedError as error:
            answers.append(error)

    run.together(lambda: ask(1), lambda: ask(1), lambda: ask(2), elsewhere.close)
    assert len(answers) == 3
    elsewhere.close()


def ask_at_once(run: Run) -> None:
    """Threads ask their first questions at once: one thread asks for all, and ends."""
    elsewhere = OtherProcesses([Elsewheres()], run.clock, Mailboxes(), run.clock)

    def ask() -> None:
        found = elsewhere.block_until_final(f"{1:032x}", None)
        assert found is not None

    run.together(ask, ask, ask)
    elsewhere.close()


def note_or_write(run: Run) -> None:
    """Records are noted while others are written: the last state of each is written."""
    backlog, written = Backlog(run.clock), dict[str, list[float]]()
    one, over = record(1), list[bool]()

    def change(by: float) -> None:
        one.created += by
        backlog.note(one)

    def write() -> None:
        while backlog.waits or not over:
            taken = backlog.take(10)
            for its in taken:
                written.setdefault(str(its.task_id), []).append(its.created)
            backlog.written(taken)
            if not taken:
                backlog.sleep(0.1)

    def end() -> None:
        backlog.put(record(2))
        run.sleep(0.3)
        over.append(True)

    run.together(lambda: change(1.0), lambda: change(2.0), end, write)
    assert written[f"{1:032x}"][-1] == 4.0
    assert f"{2:032x}" in written
    assert not len(backlog)
    assert set(backlog.live) <= {f"{1:032x}"}


def note_or_end(run: Run) -> None:
    """A task ends while a change of it is noted: it is not live any more."""
    backlog, one = Backlog(run.clock), record(1, TaskStatus.RUNNING)

    def end() -> None:
        one.status = TaskStatus.COMPLETED
        backlog.put(one)

    run.together(lambda: backlog.note(one), end)
    assert not backlog.live


def secure_or_expire(run: Run) -> None:
    """Callers wait for safe records that are written as they lose patience: one answer each."""
    run.replace(_backlog, "SECURE_PATIENCE", 1.0)
    backlog, answers = Backlog(run.clock), list[int]()

    def secure(number: int) -> None:
        backlog.secure(record(number), lambda _: answers.append(number))

    def write() -> None:
        run.sleep(1.0)
        backlog.written(backlog.take(10))

    run.together(lambda: secure(1), lambda: secure(2), write)
    run.sleep(2.0)
    backlog.close()
    assert sorted(answers) == [1, 2], answers


def secure_or_write(run: Run) -> None:
    """Callers wait for a record that is written, and put back, meanwhile: it is safe for all."""
    backlog, answers = Backlog(run.clock), list[BaseException | None]()
    one = record(1)

    def secure() -> None:
        backlog.secure(one, answers.append)

    def write() -> None:
        for its in backlog.take(10):
            backlog.postpone(its)
        backlog.written(backlog.take(10))

    secure()
    run.together(secure, secure, write)
    while backlog.waits:
        backlog.written(backlog.take(10))
    assert answers == [None, None, None], answers
    run.sleep(6.0)


def gather_a_burst(run: Run) -> None:
    """Records come while the writer waits for as many: it waits no longer than for the last."""
    backlog, answers = Backlog(run.clock), list[BaseException | None]()
    began = run.clock.monotonic()

    def gather() -> None:
        backlog.gathering.until_whole(3, 1.0)
        assert (len(backlog), run.clock.monotonic()) == (3, began)

    run.together(
        gather,
        lambda: backlog.put(record(1)),
        lambda: backlog.put(record(2)),
        lambda: backlog.secure(record(3), answers.append),
    )
    backlog.gathering.until_whole(4, 1.0)
    assert run.clock.monotonic() == began + 1.0
    backlog.written(backlog.take(10))
    run.sleep(6.0)
    assert answers == [None]


def row(number: int, status: str) -> TaskRow:
    """Return a task's row, as another process has written it."""
    ended = None if status == "running" else float(number)
    return TaskRow(
        *(f"{number:032x}", "task", "", status, 0, 0.0, 0.0, ended, 1, None, "", None),
        *(None, "", 0, 0, None, None),
        process="another",
    )


def mirror_counts(run: Run) -> None:
    """Tasks of other processes end, are read twice and are removed: the counts are right."""
    mirror = Mirror(run.clock, Backlog(run.clock))
    mirror.add([row(1, "running")])

    def read() -> None:
        mirror.read([row(1, "completed"), row(2, "completed")])

    def add() -> None:
        mirror.add([row(1, "completed")])

    def put() -> None:
        mirror.put(record(3))
        mirror.remove(ended_before=None, keep=0, completed=True)

    run.together(read, add, put)
    figures, kept = mirror.figures(), mirror.records()
    assert (figures["running"], figures["completed"]) == (0, len(kept))
    assert len({one.task_id for one in kept}) == len(kept)


def forget_or_read(run: Run) -> None:
    """Another process's task ends and is taken over by this one: it is no longer counted, once."""
    mirror = Mirror(run.clock, Backlog(run.clock))
    mirror.add([row(1, "running")])

    def forget() -> None:
        mirror.forget(f"{1:032x}")

    def read() -> None:
        mirror.read([row(1, "completed")])

    run.together(forget, read)
    assert mirror.figures()["running"] == 0, mirror.figures()


def forget_twice(run: Run) -> None:
    """Two threads forget up to different moments: the later one stays."""
    made: Any = SimpleNamespace(**dict.fromkeys(Site.__slots__))
    made.backlog = Backlog(run.clock)
    follower = Follower(made, made, made)
    run.together(lambda: follower.forget(1.0), lambda: follower.forget(2.0))
    assert follower.removed == 2.0


SCENARIOS: list[Callable[[Run], None]] = [
    put_or_remove,
    find_or_pack,
    remove_twice,
    ask_or_close,
    ask_at_once,
    note_or_write,
    note_or_end,
    secure_or_expire,
    secure_or_write,
    gather_a_burst,
    mirror_counts,
    forget_or_read,
    forget_twice,
]
