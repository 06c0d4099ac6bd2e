"""Messages that the broker has lost: which they are, and what becomes of their tasks."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from framework.doctor import examine
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing import recovery
from framework.engines.celery._publishing.held import held
from framework.engines.celery._publishing.recovery import Recovery, missing
from framework.engines.celery._redis.state import State
from tests.patience import PATIENCE
from tests.processes.celery.app import make
from tests.processes.servers import RedisServer

PAUSES = (20.0, 3_600.0)
ME = "me|1|1"


def message(task_id: str = "t", **fields: Any) -> Message:
    """Return one delivery of a task."""
    whole = {
        "task_id": task_id, "fn": "f", "name": "f", "about": "", "call": "[[],{}]",
        "created": 1e9, "limit": 9.0, "left": 9.0,
    }  # fmt: skip
    return Message(**{**whole, **fields})


@pytest.fixture
def engine(redis_url: str) -> Iterator[CeleryEngine]:
    """An engine on an empty Redis, without workers."""
    made = make(redis_url)
    yield made
    made.state.client.close()


@pytest.fixture
def state(engine: CeleryEngine) -> State:
    """Its tasks."""
    return engine.state


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was published a moment ago is looked at, and twice at once."""
    monkeypatch.setattr(recovery, "EVERY", -1.0)


def publish(engine: CeleryEngine, *messages: Message) -> None:
    """Note and send messages, as an app does."""
    sender = engine.sender()
    engine.state.publish(messages, ME)
    for one in messages:
        sender.send(one)
    engine.state.published(ME, [one.task_id for one in messages])
    sender.close()


def look(engine: CeleryEngine, times: int = 2) -> None:
    """Look for lost messages, as often as it takes."""
    recovery = Recovery(engine.app, engine.state, engine.sender)
    for _ in range(times):
        engine.state.client.delete(f"{engine.state.prefix}lead")
        recovery.look()


def waiting(state: State, queue: str = "asyncframe.processes") -> list[Message]:
    """Take all messages out of a queue, the next one first."""
    found = []
    while (text := state.client.rpop(queue)) is not None:
        body = json.loads(text)
        assert body["headers"]["task"] == "asyncframe.run"
        found.append(json.loads(base64.b64decode(body["body"]))[0][0])
    return [Message.from_json(one) for one in found]


# -- what the broker holds


def test_ids_in_a_queue(engine: CeleryEngine) -> None:
    """The id of a waiting message is read from it, whatever characters it has."""
    ids = {"t", "order-7", 'a "quoted" one', "back\\slash\\", "ünï\n"}
    publish(engine, *map(message, sorted(ids)))
    with held(engine.app) as broker:
        assert broker.ids(["asyncframe.processes"]) == ids
        assert broker.ids(["other"]) == set()


def test_long_queue(engine: CeleryEngine) -> None:
    """A queue that is longer than one step is read to its end, messages of every length."""
    ids = {f"t{number}" for number in range(900)}
    some = [message(one, about="x" * (50_000 if one == "t7" else 0)) for one in ids]
    publish(engine, *some)
    with held(engine.app) as broker:
        assert broker.ids(["asyncframe.processes"]) == ids


def test_priorities_and_prefix(engine: CeleryEngine) -> None:
    """Messages of every priority are found, and those under a prefix for all keys."""
    engine.task.priority = 6
    engine.app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
    publish(engine, message())
    assert engine.state.client.llen("shop:asyncframe.processes\x06\x166") == 1
    with held(engine.app) as broker:
        assert broker.ids(["asyncframe.processes"]) == {"t"}


def test_taken_messages(engine: CeleryEngine) -> None:
    """A message that a worker has taken and noted is there."""
    publish(engine, *(message(f"t{number}") for number in range(50)))
    with engine.app.connection_for_read() as connection:
        queue = connection.SimpleQueue("asyncframe.processes")
        for _ in range(50):
            queue.get(timeout=PATIENCE)
        with held(engine.app) as broker:
            assert broker.ids(["asyncframe.processes"]) == {f"t{number}" for number in range(50)}


# -- what is done about the rest


def test_what_waits_is_not_lost(engine: CeleryEngine, state: State) -> None:
    """A task whose message is in its queue is left alone, however old it is."""
    publish(engine, message())
    look(engine, times=3)
    assert waiting(state) == [message()]


def test_lost_message(engine: CeleryEngine, state: State) -> None:
    """A message that is nowhere is published again, as it was, at the second look."""
    publish(engine, message(call='[["x"],{}]'))
    waiting(state)
    look(engine, times=1)
    assert waiting(state) == []
    look(engine, times=1)
    assert waiting(state) == [message(call='[["x"],{}]')]


def test_lost_again(engine: CeleryEngine, state: State) -> None:
    """After a copy the task is left alone for a while, which doubles with each."""
    publish(engine, message())
    waiting(state)
    look(engine)
    assert len(waiting(state)) == 1
    look(engine, times=3)
    assert waiting(state) == []
    for pause in (40.0, 80.0):
        state.client.zadd(f"{state.prefix}live", {"t": 1.0})
        look(engine)
        assert len(waiting(state)) == 1
        due = state.client.zscore(f"{state.prefix}live", "t") - state.now()
        assert due == pytest.approx(pause, abs=10)


def test_noted_and_never_sent(engine: CeleryEngine, state: State) -> None:
    """A message that a process noted before it died is sent too."""
    state.publish([message()], ME)
    state.note_queue("asyncframe.processes")
    look(engine)
    assert waiting(state) == [message()]


def test_running_task_is_not_lost(engine: CeleryEngine, state: State) -> None:
    """A task whose lease is held runs, wherever its message is."""
    publish(engine, message())
    waiting(state)
    look(engine, times=1)
    state.start(message(), ME)
    look(engine, times=3)
    assert waiting(state) == []


def test_task_of_a_dead_worker(engine: CeleryEngine, state: State) -> None:
    """A RUNNING task with neither a lease nor a message runs again, as a further attempt."""
    publish(engine, message())
    waiting(state)
    state.start(message(), "gone|1|1")
    state.client.hset(f"{state.prefix}task:t", "until", "1.0")
    look(engine)
    (copy,) = waiting(state)
    verdict = state.start(copy, ME)
    assert (verdict.kind, verdict.attempts) == ("run", 2)


def test_lost_between_attempts(engine: CeleryEngine, state: State) -> None:
    """A task that waited for its next attempt goes on with that one."""
    publish(engine, message())
    waiting(state)
    state.start(message(), ME)
    following = message(seq=1, attempt=1, due=2e9)
    state.again(following, ME, "retrying", 1.0, "", "failed once")
    state.sent(following)
    look(engine)
    assert waiting(state) == [following]
    assert state.start(following, ME).attempts == 2


def test_cancelled_task_has_no_copy(engine: CeleryEngine, state: State) -> None:
    """A task that was cancelled while its message was lost is not published again."""
    publish(engine, message())
    waiting(state)
    look(engine, times=1)
    state.cancel("t", "not wanted")
    look(engine)
    assert waiting(state) == []


def test_second_message_of_an_ended_task(engine: CeleryEngine, state: State) -> None:
    """A task that had a copy never runs again, even when it is over and forgotten."""
    publish(engine, message())
    (first,) = waiting(state)
    look(engine)
    (copy,) = waiting(state)
    state.start(copy, ME)
    state.end("t", "completed", holder=ME, result="3")
    assert state.start(first, ME).kind == "over"
    state.forget(["t"])
    assert state.fetch(["t"]) == {}
    assert state.start(first, ME).kind == "over"
    assert state.fetch(["t"]) == {}


def test_no_copy_to_send(engine: CeleryEngine, state: State) -> None:
    """A task whose message Redis does not have either is INTERRUPTED, and says why."""
    publish(engine, message())
    waiting(state)
    state.client.delete(f"{state.prefix}messages")
    look(engine)
    facts = state.fetch(["t"])["t"]
    assert (facts["status"], facts["reason"]) == ("interrupted", "its message was lost")


def test_nothing_stays(engine: CeleryEngine, state: State) -> None:
    """Only the hash of a finished task is kept, and no message."""
    publish(engine, message())
    state.start(message(), ME)
    assert state.client.hget(state.messages, "t") is not None
    state.end("t", "completed", holder=ME, result="3")
    assert state.client.hget(state.messages, "t") is None
    assert state.overdue(-1.0) == []
    keys = set(state.client.scan_iter(f"{state.prefix}*"))
    assert {one.removeprefix(state.prefix) for one in keys} == {
        "task:t", "reports", "reports:n", "queues", "keepers", f"alive:{ME}",
    }  # fmt: skip


def test_hash_that_has_expired(engine: CeleryEngine, state: State) -> None:
    """A task whose hash is gone is dropped from what is looked at."""
    publish(engine, message())
    waiting(state)
    state.client.delete(f"{state.prefix}task:t")
    look(engine, times=1)
    assert (state.overdue(-1.0), state.client.hget(state.messages, "t")) == ([], None)


def test_one_looks(engine: CeleryEngine, state: State) -> None:
    """While one process looks, or has just looked, no other one does."""
    assert state.lead("first|1|1", 60.0)
    assert not state.lead("second|1|1", 60.0)
    publish(engine, message())
    waiting(state)
    recovery = Recovery(engine.app, state, engine.sender)
    for _ in range(3):
        recovery.look()
    assert waiting(state) == []


def test_doctor(engine: CeleryEngine, state: State) -> None:
    """The doctor names the tasks that are stuck, and neither those that wait nor that run."""
    publish(engine, *(message(f"t{number}") for number in range(9)))
    taken = [one.task_id for one in waiting(state)]
    publish(engine, message("waits"))
    state.start(message(taken.pop()), ME)
    found = {one.setting: one for one in examine(engine).findings}["tasks"]
    assert found.problem == (
        "8 of them wait forever: the broker has lost their messages (t0, t1, t2, t3, t4, ...)"
    )
    assert found.cure == "start a worker: it publishes them again"
    look(engine)
    assert "tasks" not in {one.setting for one in examine(engine).findings}


def test_unknown_queue(engine: CeleryEngine, state: State) -> None:
    """Where messages go by an exchange of the user's, nothing is taken for lost."""
    publish(engine, message())
    waiting(state)
    state.note_queue("")
    assert list(missing(engine.app, state)) == []


def test_broker_away(redis_server: RedisServer) -> None:
    """A broker that is away is an error of the look, and its next one begins anew."""
    engine = make(redis_server.url)
    publish(engine, message())
    redis_server.stop()
    with pytest.raises(engine.errors, match=r"^Error 111 connecting to "):
        Recovery(engine.app, engine.state, engine.sender).look()
    redis_server.start()
    waiting(engine.state)
    look(engine)
    assert waiting(engine.state) == [message()]
