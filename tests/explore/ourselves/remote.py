"""Scenarios of what talks to other processes: the publisher and the reports of Celery, workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from framework._records.statuses import TaskStatus
from framework._running.waits.lines import Lines
from framework._tasks.places import PlaceAnswer, PlaceRequest
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing.publisher import Publisher, Queued
from framework.engines.celery._redis import scripts
from framework.engines.celery._redis.reports import Reports
from framework.engines.celery._shared.lines import RedisLines
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._dialects.sqlite import SQLite
from framework.stores.sql._shared.site import Pace, site_of
from framework.stores.sql._tables.turns import Turn
from framework.stores.sql._writing.removal import Removal
from framework.stores.sql._writing.writer import Writer
from framework.worker import _deliveries
from framework.worker._deliveries import Process
from tests.explore.ourselves.run import Run


def message(task_id: str) -> Message:
    """Return a message for a task."""
    return Message(task_id, "fn", "fn", "", "", 0.0, None, None)


class Broker:
    """A broker connection, which one thread at a time may use until it is closed.

    Args:
        run: The run.

    Attributes:
        sent: The ids of the tasks whose messages were sent.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._busy = self._closed = False
        self.sent: list[str] = []

    def send(self, message: Message, delay: float = 0.0) -> None:
        """Send a message, which takes a moment."""
        assert not self._busy
        assert not self._closed
        self._busy = True
        self._run.sleep(0.01)
        self._busy = False
        self.sent.append(message.task_id)

    def at_once(self) -> int:
        """Return how many messages a round trip takes."""
        return 2

    def send_all(self, messages: Sequence[Message]) -> None:
        """Send messages."""
        for one in messages:
            self.send(one)

    def close(self) -> None:
        """Close the connection."""
        assert not self._busy
        self._closed = True


class Publishing:
    """A publisher, and what becomes of tasks.

    Args:
        run: The run.

    Attributes:
        publisher: The publisher.
        broker: Its connection.
        ended: The ids of the tasks that it has ended.
        redis: What Redis has of each task: kept, unsent, sent, ended, or asked to stop.
    """

    def __init__(self, run: Run) -> None:
        self.broker = Broker(run)
        self.ended: list[str] = []
        self.redis: dict[str, str] = {}
        host: Any = SimpleNamespace(
            clock=run.clock,
            waiting=lambda *_: None,
            ended=lambda task_id, *_, **__: self.ended.append(task_id),
        )
        sender: Any = self.broker
        self.publisher = Publisher(sender, self._note, self._sent, _nothing, host, 10, 60.0)

    def _note(self, queued: Sequence[Queued]) -> dict[str, Message]:
        """Do what the scripts in Redis do."""
        messages = {}
        for one in queued:
            state = self.redis.get(one.task_id)
            if one.move == "keep":
                self.redis.setdefault(one.task_id, "kept")
            elif one.move == "publish" and state in (None, "kept", "unsent"):
                self.redis[one.task_id] = "unsent"
                messages[one.task_id] = message(one.task_id)
            elif one.move == "retire" and state is not None:
                self.redis[one.task_id] = "asked" if state == "sent" else "ended"
        return messages

    def _sent(self, ids: Sequence[str]) -> None:
        for task_id in ids:
            if self.redis[task_id] == "unsent":
                self.redis[task_id] = "sent"

    def put(self, task_id: str) -> bool:
        """Queue a task; return whether it will be sent."""
        return self.publisher.put(Queued(new_task(task_id)))


def new_task(task_id: str) -> Any:
    """Return as much of a task as a publisher looks at."""
    return SimpleNamespace(
        task_id=task_id, status=TaskStatus.PENDING, reason="", queued=0.0, engine_note=None
    )


def _nothing(_: object) -> None:
    """Do nothing."""


def publish_or_withdraw(run: Run) -> None:
    """Tasks are withdrawn while they are sent: each is one or the other."""
    it, withdrawn = Publishing(run), list[str]()

    def put() -> None:
        it.put("a")
        it.put("b")

    def withdraw() -> None:
        withdrawn.extend(one for one in ("a", "b") if it.publisher.withdraw(one))

    run.together(put, withdraw)
    it.publisher.close(5.0)
    assert sorted([*it.broker.sent, *withdrawn]) == ["a", "b"]


def publish_or_end(run: Run) -> None:
    """A task that waits ends here while it is noted and published: it ends in Redis, too."""
    it, task, told = Publishing(run), new_task("a"), list[object]()

    def submit() -> None:
        it.publisher.put(Queued(task, "keep"))
        it.publisher.secure("a", told.append)
        it.publisher.put(Queued(task))

    def end() -> None:
        task.status = TaskStatus.CANCELLED
        it.publisher.retire(task, kept=True)

    run.together(submit, end)
    it.publisher.close(5.0)
    assert told == [None]
    assert it.redis.get("a") in (None, "ended", "asked")


def publish_or_close(run: Run) -> None:
    """Tasks are queued while the engine closes: each is sent, refused, or ended."""
    it, refused = Publishing(run), list[str]()

    def put(task_id: str) -> None:
        if not it.put(task_id):
            refused.append(task_id)

    run.together(lambda: put("a"), lambda: put("b"), lambda: it.publisher.close(5.0))
    assert sorted([*it.broker.sent, *it.ended, *refused]) == ["a", "b"]


def flush_or_publish(run: Run) -> None:
    """A thread waits until all is sent: it is woken, and all is."""
    it = Publishing(run)

    def put(task_id: str) -> None:
        it.put(task_id)
        it.publisher.flush()
        assert task_id in it.broker.sent

    run.together(lambda: put("a"), lambda: put("b"))
    it.publisher.close(5.0)


class RedisOfLines:
    """A Redis that keeps lines, and reports each place that is granted.

    Attributes:
        lines: The lines.
        placed: Called with a report: the task, and its line.
    """

    placed: Callable[[str, str], None]
    prefix = ""

    def __init__(self) -> None:
        self.lines = Lines(lambda _: False)
        self.client = SimpleNamespace(set=lambda *_, **__: "1", delete=_nothing)

    def change(self, script: str, task_id: str, *given: Any) -> Any:
        """Do what the scripts do; all tasks count as published."""
        if script == scripts.JOIN:
            return self._join(task_id, *given[:4])
        if script == scripts.LEAVE_LINES and given == ("1",):
            self.lines.leave(task_id)
        return 1

    def _join(self, task_id: str, line: str, limit: int, waits: int, rank: int) -> list[Any]:
        answers: list[PlaceAnswer] = []

        def told(answer: PlaceAnswer) -> None:
            if answers:
                self.placed(task_id, line)
            answers.append(answer)

        self.lines.join(PlaceRequest(line, task_id, limit, bool(waits), rank), told)
        return [int(answers[0].granted), *answers[0].others]


def share_places(run: Run) -> None:
    """Tasks ask for one place and give it back, or up: all get it, and none keeps it."""
    redis: Any = RedisOfLines()
    lines, granted = RedisLines(redis, lambda: None), list[str]()
    redis.placed = lines.placed

    def join(task_id: str) -> None:
        def told(answer: PlaceAnswer) -> None:
            if answer.granted:
                granted.append(task_id)
                lines.leave(task_id)

        lines.join(PlaceRequest("line", task_id, 1), told)

    def give_up() -> None:
        lines.join(PlaceRequest("line", "c", 1), lambda _: None)
        lines.leave("c")

    run.together(lambda: join("a"), lambda: join("b"), give_up)
    lines.close(5.0)
    assert sorted(granted) == ["a", "b"]
    assert len(redis.lines) == 0


def read_reports_twice(run: Run) -> None:
    """Two threads begin to read, and have something reported: all of it is read, once."""
    stream, told = list[str](), list[str]()

    def read(after: str, block: float) -> list[tuple[str, dict[str, str]]]:
        run.sleep(block)
        new = range(int(after) + 1, len(stream) + 1)
        return [
            (
                str(number),
                {"n": str(number), "k": "started", "i": stream[number - 1], "at": "0", "a": "1"},
            )
            for number in new
        ]

    def latest() -> tuple[str, int]:
        run.sleep(0.01)
        return str(len(stream)), len(stream)

    state: Any = SimpleNamespace(latest=latest, read=read, poke=lambda: None)
    host: Any = SimpleNamespace(
        started=lambda task_id, *_: told.append(task_id), live=list, live_count=lambda: 1
    )
    reports = Reports(state, host, lambda *_: None, lambda: None)

    def report(task_id: str) -> None:
        reports.find_place()
        stream.append(task_id)
        reports.start()

    run.together(lambda: report("a"), lambda: report("b"))
    run.sleep(3.0)
    reports.close()
    assert sorted(told) == ["a", "b"]


def claim_twice(run: Run) -> None:
    """Two threads of a worker get the same task: one of them has it at a time."""
    process, inside = Process(), list[str]()

    def deliver() -> None:
        with process.claim("a") as free:
            if free:
                assert not inside
                inside.append("a")
                run.sleep(0.1)
                inside.remove("a")

    run.together(deliver, deliver)
    assert not process._claimed


def enter_twice(run: Run) -> None:
    """The first two tasks of a worker come at once: it enters once."""
    process, entered, outposts = Process(), list[int](), list[object]()
    run.replace(_deliveries, "Outpost", lambda *_: object())

    def enter_worker() -> None:
        entered.append(1)
        run.sleep(0.1)

    engine: Any = SimpleNamespace(enter_worker=enter_worker, sender=lambda: None)

    def enter() -> None:
        outposts.append(process.enter(engine))

    run.together(enter, enter)
    assert entered == [1]
    assert outposts[0] is outposts[1]


def send_twice(run: Run) -> None:
    """Two threads of a worker send at once: one of them uses the connection at a time."""
    process, broker = Process(), Broker(run)
    process.sender = broker
    run.replace(_deliveries, "PROCESS", process)
    engine: Any = None

    def send(task_id: str) -> None:
        _deliveries._send(engine, message(task_id))

    run.together(lambda: send("a"), lambda: send("b"))
    assert sorted(broker.sent) == ["a", "b"]


def remove_or_write(run: Run) -> None:
    """Clean-ups come while an earlier one is carried out: the latest one is, too."""
    done: list[float] = []

    def remove(_: object, bound: float, __: int) -> bool:
        done.append(bound)
        return False

    mirror: Any = SimpleNamespace(expect_again=bool, holds_free=True)
    made: Any = None
    # Nobody starts the writer, so it keeps no session with a server.
    link = SimpleNamespace(presence=None)
    database: Any = SimpleNamespace(writing=nullcontext, dialect=SQLite(), link=lambda *_: link)
    writer: Any = Writer(site_of(database, Backlog(run.clock), made, run.clock, Pace()), mirror)
    batches: Any = writer.batches
    statements: Any = SimpleNamespace(remove=remove, advance=lambda *_: Turn(1, 0.0, 0, True))
    batches._site = replace(batches._site, statements=statements)
    batches.removal = Removal(statements, run.clock)

    def write() -> None:
        while (bound := writer.batches.removal.bound) is not None:
            batches._write_batch([], bound, {})

    writer.remove(1.0)
    run.together(write, lambda: writer.remove(2.0), lambda: writer.remove(3.0))
    write()
    assert max(done) == 3.0


SCENARIOS: list[Callable[[Run], None]] = [
    publish_or_withdraw,
    publish_or_end,
    publish_or_close,
    flush_or_publish,
    read_reports_twice,
    share_places,
    claim_twice,
    enter_twice,
    send_twice,
    remove_or_write,
]
