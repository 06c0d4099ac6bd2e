"""What a worker lets in, and what an app lets out: JSON, and functions that are registered."""

from __future__ import annotations

import asyncio
import json
import re
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import redis
from pydantic import BaseModel

from framework import (
    TaskManager,
    async_task,
    background_task,
    get_task_manager,
    scheduled_task,
    setup_async_framework,
)
from framework._tasks import registry
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message, MessageError, signature_hash
from tests.patience import NEVER, PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.celery.workers import CeleryWorker
from tests.processes.refusals import refusal, refusal_of
from tests.processes.sharing import RedisDatabase


class Trap:
    """Runs code of the sender's choice where it is unpickled."""

    def __reduce__(self) -> Any:
        return celery_tasks.tell, ("trapped",)


@pytest.fixture
async def manager(celery_engine: CeleryEngine) -> AsyncIterator[TaskManager]:
    """The manager of a framework whose tasks the worker runs."""
    async with setup_async_framework(None, engine=celery_engine, graceful_shutdown_timeout=1.0):
        yield get_task_manager()


@pytest.fixture
def key() -> str:
    """A list of the test's own."""
    return uuid4().hex


def message(**fields: Any) -> Message:
    """Return a message of `mark`, but for some fields."""
    name = "tests.processes.celery.tasks.mark"
    whole = {
        "task_id": uuid4().hex, "fn": name, "name": name, "about": "", "call": '[["x"],{}]',
        "created": 1e9, "limit": 9.0, "left": 9.0,
    }  # fmt: skip
    return Message(**{**whole, **fields})


async def outcome(engine: CeleryEngine, manager: TaskManager, sent: Message) -> Any:
    """Publish a message by hand and wait for what becomes of its task."""
    sender = engine.sender()
    await asyncio.to_thread(engine.state.publish, [sent], "m|1|1")
    await asyncio.to_thread(sender.send, sent)
    await asyncio.to_thread(sender.close)
    return await manager.get_result(sent.task_id, timeout=PATIENCE)


# -- what a worker refuses


async def test_pickle_is_refused(
    celery_engine: CeleryEngine, celery_redis: RedisDatabase, manager: TaskManager, key: str
) -> None:
    """A pickled message is dropped without being unpickled."""
    with (
        celery_engine.app.connection_for_write() as connection,
        connection.Producer(serializer="pickle") as producer,
    ):
        producer.publish(
            ((Trap(),), {}, {}),
            routing_key="asyncframe.processes",
            headers={"task": "asyncframe.run", "id": uuid4().hex, "lang": "py"},
        )
    await manager.get_result(celery_tasks.mark(key), timeout=PATIENCE)
    with redis.Redis.from_url(celery_redis.url) as client:
        assert client.llen("trapped") == 0
        assert client.llen(key) == 1


async def test_function_that_is_not_registered(
    celery_engine: CeleryEngine, manager: TaskManager
) -> None:
    """A message that names any other function fails its task, and imports nothing."""
    with pytest.raises(
        LookupError,
        match=r"^this worker knows no task function 'antigravity\.geohash': import its "
        r"module in the one that the worker is started with$",
    ):
        await outcome(celery_engine, manager, message(fn="antigravity.geohash"))


async def test_helper_of_a_module_with_tasks(
    celery_engine: CeleryEngine, manager: TaskManager
) -> None:
    """A function beside tasks that is none of them cannot be named either."""
    name = "tests.processes.celery.tasks.tell"
    with pytest.raises(
        LookupError,
        match=r"^this worker knows no task function 'tests\.processes\.celery\.tasks\.tell': "
        r"import its module in the one that the worker is started with$",
    ):
        await outcome(celery_engine, manager, message(fn=name))


async def test_arguments_that_do_not_fit(celery_engine: CeleryEngine, manager: TaskManager) -> None:
    """Arguments that do not fit the annotations fail the task before its body begins."""
    cases = {
        '[[["no text"]],{}]': "TypeError",
        '[["a","b","c"],{}]': "TypeError",
        "[[],{}]": "TypeError",
        '{"args":[]}': "ValueError",
    }
    found = {
        call: await refusal_of(outcome(celery_engine, manager, message(call=call)))
        for call in cases
    }
    assert {call: words.partition(":")[0] for call, words in found.items()} == cases, found


async def test_message_of_another_version(
    celery_engine: CeleryEngine, manager: TaskManager
) -> None:
    """A message of a form that the worker does not know fails its task, and says so."""
    with pytest.raises(
        MessageError, match=r"^the message's version must be 1; update the older side$"
    ):
        await outcome(celery_engine, manager, message(version=2))


def test_what_is_no_message() -> None:
    """A message is refused if any of its fields has the wrong form."""
    shape = "the message must be an object with the fields of a task message"
    typed = "the field {!r} of the message is of the wrong type"
    task_id = "the message's task id must have 1 to 512 characters"
    good = message().as_json()
    cases: list[tuple[object, str]] = [
        (None, shape),
        ([], shape),
        ({}, shape),
        (good | {"more": 1}, shape),
        (good | {"seq": "0"}, typed.format("seq")),
        (good | {"seq": True}, typed.format("seq")),
        (good | {"waited": 1}, typed.format("waited")),
        (good | {"limit": "9"}, typed.format("limit")),
        (good | {"task_id": ""}, task_id),
        (good | {"task_id": "x" * 513}, task_id),
    ]
    found = [(given, refusal(partial(Message.from_json, given))) for given, _ in cases]
    assert found == [(given, f"MessageError: {words}") for given, words in cases]


def test_message_there_and_back() -> None:
    """A message is the same after its way through JSON."""
    sent = message(limit=None, left=None, seq=3, waited=True, due=2.5)
    assert Message.from_json(json.loads(json.dumps(sent.as_json()))) == sent


# -- what an app refuses


async def test_function_that_workers_do_not_know(manager: TaskManager) -> None:
    """A plain function that the engine was not given is refused where it is submitted."""
    with pytest.raises(
        ValueError,
        match=r"^func must be a function that workers know, not "
        r"tests\.processes\.celery\.tasks\.unknown: decorate it in a module that the "
        r"worker imports, or pass it in CeleryEngine\(functions=\[\.\.\.\]\)$",
    ):
        await manager.submit(celery_tasks.unknown, (1,))
    with pytest.raises(
        ValueError,
        match=r"^func must be a function that workers know, not .*<lambda>: decorate it in "
        r"a module that the worker imports, or pass it in "
        r"CeleryEngine\(functions=\[\.\.\.\]\)$",
    ):
        await manager.submit(lambda: None)


async def test_argument_without_json(manager: TaskManager) -> None:
    """An argument that JSON has nothing for is refused where it is submitted."""
    with pytest.raises(
        TypeError,
        match=r"^argument 'key' of tests\.processes\.celery\.tasks\.mark does not fit: given "
        r"a value of type object: .+; arguments are sent as JSON according to the "
        r"annotations$",
    ):
        celery_tasks.mark(object())  # type: ignore[arg-type]  # that is the test


async def test_limit_beyond_the_longest(manager: TaskManager) -> None:
    """A limit longer than the workers allow is refused where it is submitted."""
    with pytest.raises(
        ValueError,
        match=r"^timeout must be at most 60 s, the longest that the workers allow, not 61 s "
        r"for tests\.processes\.celery\.tasks\.mark: see "
        r"CeleryEngine\(max_limit=\.\.\.\)$",
    ):
        await manager.submit(celery_tasks.mark, ("x",), timeout=61)


async def test_no_limit(celery_redis: RedisDatabase) -> None:
    """A task with neither a limit of its own nor a default is refused where it is submitted."""
    engine = make(celery_redis.url, default_limit=None, functions=[celery_tasks.plain])
    with without_decorated_functions():
        async with setup_async_framework(None, engine=engine):
            for timeout in (None, float("inf")):
                with pytest.raises(
                    ValueError,
                    match=r"^timeout is missing for tests\.processes\.celery\.tasks\.plain: on a "
                    r"worker every task needs a time limit, from its decorator, "
                    r"submit\(timeout=\.\.\.\) or CeleryEngine\(default_limit=\.\.\.\)$",
                ):
                    await get_task_manager().submit(celery_tasks.plain, (1,), timeout=timeout)


@contextmanager
def without_decorated_functions() -> Iterator[None]:
    """Have no function registered meanwhile; a process of tests has many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_BY_NAME", weakref.WeakValueDictionary())
        yield


async def test_functions_without_a_limit(celery_redis: RedisDatabase) -> None:
    """An app with functions that have no limit does not start, and names each of them."""
    with without_decorated_functions():

        @background_task
        def forgotten() -> None:
            raise NotImplementedError

        @scheduled_task(every=60)
        def nightly() -> None:
            raise NotImplementedError

        @async_task(timeout=float("inf"))
        async def endless() -> None:
            raise NotImplementedError

        @background_task(timeout=5)
        def limited() -> None:
            raise NotImplementedError

        here = f"{__name__}.test_functions_without_a_limit.<locals>"
        names = [f"{here}.{name}" for name in ("endless", "forgotten", "nightly")]
        engine = make(celery_redis.url, default_limit=None)
        assert engine.admission.limitless() == names
        said = (
            "every function that workers run needs a timeout; it is missing for "
            f"{', '.join(names)}: set it in the decorator of each one, or for all of them, also "
            "those of libraries and other apps in this process, with "
            "CeleryEngine(default_limit=...)"
        )
        with pytest.raises(ValueError, match=rf"^{re.escape(said)}$"):
            async with setup_async_framework(None, engine=engine):
                pass
        assert make(celery_redis.url, default_limit=5.0).admission.limitless() == []
        assert all(map(callable, (forgotten, nightly, endless, limited)))


class Upload(BaseModel):
    """A model whose bytes pydantic takes for text."""

    data: bytes


async def test_annotation_that_is_refused(celery_redis: RedisDatabase) -> None:
    """An app with a function whose values JSON cannot have does not start, and says which."""
    with without_decorated_functions():

        @background_task(timeout=5)
        def store(upload: Upload) -> None:
            raise NotImplementedError

        name = f"{__name__}.test_annotation_that_is_refused.<locals>.store"
        engine = make(celery_redis.url)
        with pytest.raises(
            ValueError, match=r"^values of some annotations cannot be sent as JSON"
        ) as caught:
            async with setup_async_framework(None, engine=engine):
                pass
        assert f"argument 'upload' of {name}: JSON has no bytes" in str(caught.value)
        assert callable(store)


async def test_schedule_that_is_refused(
    celery_redis: RedisDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """A scheduled function that the engine refuses is skipped, and the app starts."""

    def scheduled() -> Any:
        @scheduled_task(every=NEVER, run_at_start=True)
        def nightly() -> None:
            raise NotImplementedError

        return nightly

    # A worker would find the second one by this name.
    both = scheduled(), scheduled()
    async with setup_async_framework(None, engine=make(celery_redis.url)):
        # Answered by the thread that asks Redis about schedules, after that.
        assert await get_task_manager().get_task("nothing") is None
        assert get_task_manager().get_stats()["scheduled_skipped"] == 1
    assert "nightly was skipped: func must be a function that workers know" in caplog.text
    assert len(both) == 2


async def test_options_travel(manager: TaskManager, key: str) -> None:
    """A copy with other options runs as the function that it is a copy of."""
    copied = celery_tasks.mark.options(name="renamed", description="a copy", timeout=5)
    task_id = copied(key)
    assert await manager.get_result(task_id, timeout=PATIENCE) == "done"
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.name, task.description) == ("renamed", "a copy")
    # The copy is gone after the call; the function itself is still known.
    assert await manager.get_result(celery_tasks.mark.options(timeout=5)(key)) == "done"
    assert await manager.get_result(celery_tasks.mark(key)) == "done"


# -- settings that would lose tasks, or run them twice


async def test_refused_settings(celery_redis: RedisDatabase) -> None:
    """An app whose settings would lose tasks does not start."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"broker_transport_options": {"visibility_timeout": 89}}, "set it to 90 or more"),
        ({"task_acks_late": False}, "task_acks_late is off"),
        ({"task_reject_on_worker_lost": False}, "task_reject_on_worker_lost is off"),
        ({"accept_content": ["json", "pickle"]}, "accept_content has pickle"),
        ({"task_always_eager": True}, "task_always_eager is on"),
    ]
    wrong = {}
    for settings, words in cases:
        engine = make(celery_redis.url)
        engine.app.conf.update(settings)
        app = setup_async_framework(None, engine=engine)
        found = await refusal_of(app.__aenter__())
        if not found.startswith("ValueError: ") or words not in found:
            wrong[words] = found
    assert wrong == {}


async def test_settings_that_are_left_open(celery_redis: RedisDatabase) -> None:
    """Settings that the user left open are set, and good ones are kept."""
    engine = make(celery_redis.url)
    engine.app.conf.broker_transport_options = {"visibility_timeout": 500, "max_retries": 2}
    async with setup_async_framework(None, engine=engine):
        conf = engine.app.conf
        assert conf.task_acks_late
        assert conf.task_reject_on_worker_lost
        assert conf.worker_prefetch_multiplier == 1
        assert conf.broker_transport_options == {
            "visibility_timeout": 500,
            "max_retries": 2,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 10,
        }


async def test_engine_in_use(celery_redis: RedisDatabase) -> None:
    """One engine serves one framework at a time, and another one after it."""
    engine = make(celery_redis.url)
    async with setup_async_framework(None, engine=engine):
        with pytest.raises(
            ValueError,
            match=r"^engine must not be used by another running framework: create a "
            r"CeleryEngine for each app$",
        ):
            async with setup_async_framework(None, engine=engine):
                pass
    async with setup_async_framework(None, engine=engine):
        pass


def test_wrong_parameters() -> None:
    """A wrong parameter is refused where the engine is made, by its name."""
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"default_limit": 0},
            "ValueError: default_limit must be a number above 0 or a timedelta, not 0",
        ),
        (
            {"default_limit": 61.0},
            "ValueError: default_limit must be at most max_limit=60.0, not 61.0",
        ),
        (
            {"max_limit": float("inf")},
            "ValueError: max_limit must be a number above 0 or a timedelta, not inf",
        ),
        (
            {"result_ttl": 0},
            "ValueError: result_ttl must be a number above 0 or a timedelta, not 0",
        ),
        (
            {"publish_timeout": -1},
            "ValueError: publish_timeout must be a number above 0 or a timedelta, not -1",
        ),
        (
            {"queue_size": 0},
            "ValueError: queue_size must be a whole number of at least 1, not 0",
        ),
        (
            {"queue": ""},
            "ValueError: queue must be a non-empty string that is valid in UTF-8, not ''",
        ),
        ({"namespace": 3}, "TypeError: namespace must be a string, not 3"),
        ({"allow_soft_limits": 1}, "TypeError: allow_soft_limits must be True or False, not 1"),
    ]
    url = "redis://127.0.0.1:1/0"
    found = [(options, refusal(partial(make, url, **options))) for options, _ in cases]
    assert found == cases


def test_no_celery_app() -> None:
    """Something that is not a Celery app is refused."""
    with pytest.raises(TypeError, match=r"^celery_app must be a Celery app, not 'redis://'$"):
        CeleryEngine("redis://")


def test_no_redis() -> None:
    """Without any Redis for the states the engine says how to name one, and no password."""
    engine = make("amqp://user:secret@host//")
    with pytest.raises(
        ValueError,
        match=r"^CeleryEngine needs a Redis for the task states: neither the broker "
        r"\('amqp://host//'\) nor the result backend of the Celery app is Redis; set "
        r"state_url='redis://\.\.\.'$",
    ) as caught:
        _ = engine.state
    assert "secret" not in str(caught.value)
    assert make("amqp://host//", state_url="redis://127.0.0.1:1/0").state.prefix


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ({"ASYNCFRAME_TEST_VISIBILITY": "5"}, (), "set it to 90 or more"),
        ({}, ("-P", "solo"), "the pool must be prefork, not solo"),
        (
            {"ASYNCFRAME_TEST_DEFAULT": "none"},
            (),
            r"needs a timeout; it is missing for .*tests\.processes\.celery\.tasks\.ask, ",
        ),
    ],
)
def test_worker_does_not_start(
    celery_redis: RedisDatabase,
    environment: dict[str, str],
    options: tuple[str, ...],
    message: str,
) -> None:
    """A worker whose settings would lose tasks, or whose pool ignores limits, does not start."""
    worker = CeleryWorker(
        "tests.processes.celery.app:celery_app", celery_redis.url, *options, environment=environment
    )
    try:
        with pytest.raises(RuntimeError, match=message):
            worker.start()
        assert worker.wait() != 0
    finally:
        worker.close()


async def test_soft_limits(redis_url: str, key: str) -> None:
    """With soft limits allowed a worker may use threads, and runs several tasks in them."""
    worker = CeleryWorker(
        "tests.processes.celery.app:celery_app", redis_url, "-P", "threads", "--concurrency", "2",
        environment={"ASYNCFRAME_TEST_SOFT": "1"},
    )  # fmt: skip
    try:
        worker.start()
        async with setup_async_framework(None, engine=make(redis_url)):
            manager = get_task_manager()
            ids = [celery_tasks.mark(key), celery_tasks.awaits(1)]
            found = [await manager.get_result(one, timeout=PATIENCE) for one in ids]
            assert found == ["done", 2]
    finally:
        worker.close()


# -- signatures


def test_signature_hash() -> None:
    """The hash differs when a parameter, an annotation or a default does."""

    def first(a: int, b: str = "x") -> int:
        raise NotImplementedError

    def same(a: int, b: str = "y") -> int:
        raise NotImplementedError

    def other(a: int, b: str) -> int:
        raise NotImplementedError

    def another(a: int, b: bytes = b"") -> int:
        raise NotImplementedError

    hashes = [signature_hash(fn) for fn in (first, same, other, another, len)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_message_to_an_earlier_release() -> None:
    """A message has no field that earlier releases refuse, unless it says something."""
    sent = message()
    plain = sent.as_json()
    assert {"carried", "keep", "level"}.isdisjoint(plain)
    assert Message.from_json(plain) == sent
    new = {"carried": {"trace": "1"}, "keep": 0, "level": 0}
    told = message(**new).as_json()
    assert {name: told[name] for name in new} == new
