"""An app made for a database and a broker, tested without either."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import date
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from fastapi import FastAPI
from pydantic import BaseModel

from framework import TaskStatus, async_task, background_task, setup_async_framework
from framework.engines.celery import CeleryEngine
from framework.exceptions import RunAgainError
from framework.stores.sql import SQLStore
from pytest_asyncframe.probe import Probe
from tests.processes.refusals import refusal


@background_task(timeout=30)
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def app_for(folder: Path) -> FastAPI:
    """Return an app whose database and broker are not there."""
    celery_app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    engine = CeleryEngine(celery_app)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = SQLStore(f"sqlite:///{folder / 'tasks.db'}", durable=True)
        async with setup_async_framework(app, store=store, engine=engine):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/double/{number}", status_code=202)
    async def start(number: int) -> dict[str, str]:
        return {"task_id": double(number)}

    return app


async def test_parts_are_replaced(asyncframe: Probe, tmp_path: Path) -> None:
    """Under the plugin the test's own store and engine are used, and nothing is opened."""
    async with asyncframe.client(app_for(tmp_path)) as client:
        answer = await client.post("/double/4")
        assert (await asyncframe.completed(answer)).result == 8
    assert not (tmp_path / "tasks.db").exists()


# -- what production would refuse


class Order(BaseModel):
    """What a task takes and returns."""

    number: int
    day: date


@background_task(timeout=30)
def unkept() -> object:
    """Return what no JSON has."""
    return threading.Lock()


@background_task(timeout=30)
def pair(numbers: tuple[int, ...], plain: Any, order: Order) -> dict[str, Any]:
    """Return what arrived."""
    return {"numbers": numbers, "plain": plain, "order": order}


@async_task(timeout=30)
async def in_place(values: Any) -> Any:
    """Return what arrived, and a tuple beside it."""
    return values, ("a", "tuple")


class Upload(BaseModel):
    """A model whose bytes pydantic takes for text."""

    data: bytes


@pytest.fixture
def tasks() -> Iterator[SimpleNamespace]:
    """Give functions that workers refuse; gone afterwards, or other apps would not start."""

    @background_task(timeout=30)
    def hold(lock: Any) -> None: ...

    @background_task
    def unlimited() -> None: ...

    @background_task(timeout=600)
    def overlong() -> None: ...

    @background_task(timeout=30)
    def store(upload: Upload) -> None: ...

    made = SimpleNamespace(hold=hold, unlimited=unlimited, overlong=overlong, store=store)
    del hold, unlimited, overlong, store
    yield made
    vars(made).clear()
    gc.collect()


def undecorated() -> None:
    """Be nothing that a worker could know."""


def undecorated_failure(_: Any) -> None:
    """Fail, without a decorator."""
    raise RuntimeError("no")


def app_on(folder: Path, *parts: str) -> FastAPI:
    """Return an app with some of the parts "celery" and "sql", none of which can be reached."""
    celery_app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    engine = CeleryEngine(celery_app, max_limit=60) if "celery" in parts else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = SQLStore(f"sqlite:///{folder / 'none' / 'tasks.db'}") if "sql" in parts else None
        async with setup_async_framework(app, store=store, engine=engine):
            yield

    return FastAPI(lifespan=lifespan)


async def test_what_workers_refuse_is_refused(
    asyncframe: Probe, tmp_path: Path, tasks: SimpleNamespace
) -> None:
    """A submission that the app's own engine would refuse is refused in a test as well."""
    cases: dict[str, Callable[[], object]] = {
        "TypeError: argument 'lock' of .*hold does not fit": partial(tasks.hold, threading.Lock()),
        "ValueError: timeout is missing for .*unlimited": tasks.unlimited,
        "ValueError: timeout must be at most 60 s": tasks.overlong,
        "ValueError: values of some annotations cannot be sent as JSON: argument 'upload' of "
        ".*store": partial(tasks.store, Upload(data=b"text")),
        "ValueError: func must be a function that workers know, not .*undecorated": (
            lambda: asyncframe.manager.submit_nowait(undecorated, timeout=5)
        ),
    }
    async with asyncframe.client(app_on(tmp_path, "celery")):
        found = {words: refusal(submit) for words, submit in cases.items()}
    assert {words: one for words, one in found.items() if not re.match(words, one)} == {}


@pytest.mark.parametrize("part", ["celery", "sql"])
async def test_a_result_that_cannot_be_kept(asyncframe: Probe, tmp_path: Path, part: str) -> None:
    """A result that is no JSON fails its task, as it would in the app."""
    async with asyncframe.client(app_on(tmp_path, part)):
        task = await asyncframe.completed(unkept(), check=False)

    assert task.status is TaskStatus.FAILED
    assert task.reason == "its result cannot be kept"
    with pytest.raises(
        TypeError,
        match=r"^the result of .*\.unkept cannot be kept: given a value of type lock: .+; "
        r"results are stored as JSON according to the return annotation$",
    ):
        await asyncframe.completed(task)


@pytest.mark.parametrize("parts", [("celery",), ("celery", "sql"), ("sql",), ()])
async def test_values_are_those_that_arrive(
    asyncframe: Probe, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    """Arguments and results are what JSON makes of them by the annotations."""
    order = Order(number=7, day=date(2026, 1, 2))
    async with asyncframe.client(app_on(tmp_path, *parts)):
        task = await asyncframe.completed(pair((1, 2), (3, 4), order))
        given, made = await in_place((1, 2))

    day = "2026-01-02" if parts else order.day
    assert task.result["numbers"] == ([1, 2] if parts else (1, 2))
    assert task.result["plain"] == ([3, 4] if parts else (3, 4))
    assert task.result["order"] == ({"number": 7, "day": day} if parts else order)
    assert type(given) is (list if parts else tuple)
    assert type(made) is (list if parts else tuple)
    asyncframe.assert_submitted(pair, (1, 2), (3, 4), order)


async def test_typed_values_are_typed_again(asyncframe: Probe, tmp_path: Path) -> None:
    """An annotated argument is an object of its own type when it arrives, and another one."""
    seen: list[object] = []

    @background_task(timeout=5)
    def take(order: Order, numbers: tuple[int, ...]) -> Order:
        seen.extend((order, numbers))
        return order

    order = Order(number=7, day=date(2026, 1, 2))
    async with asyncframe.client(app_on(tmp_path, "celery", "sql")):
        task = await asyncframe.completed(take(order, (1, 2)))

    assert seen == [order, (1, 2)]
    assert seen[0] is not order
    assert task.result == order
    assert task.result is not order


async def test_a_default_limit_holds(asyncframe: Probe, tmp_path: Path) -> None:
    """The engine's default limit is that of a task without one of its own."""
    celery_app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    engine = CeleryEngine(celery_app, default_limit=20)

    @background_task
    async def slow() -> None:
        await asyncframe.clock.asleep(60)

    app = FastAPI(lifespan=lambda app: setup_async_framework(app, engine=engine))
    async with asyncframe.client(app):
        task = await asyncframe.completed(slow(), check=False)

    assert task.status is TaskStatus.TIMEOUT
    assert task.duration == 20
    assert task.error is not None


@background_task(timeout=30)
def refuse(order: Any) -> None:
    """Fail, whatever arrives."""
    raise RuntimeError(type(order).__name__)


@pytest.mark.parametrize(
    ("function", "argument", "words"),
    [
        (undecorated_failure, 1, r"undecorated_failure is not a decorated function that others"),
        (refuse, threading.Lock(), r"argument 'order' of .*refuse does not fit"),
    ],
    ids=["undecorated", "no JSON"],
)
@pytest.mark.asyncframe(lost_failures="off")
async def test_what_the_store_would_not_keep_is_not_run_again(
    asyncframe: Probe, tmp_path: Path, function: Any, argument: Any, words: str
) -> None:
    """A task that the app's own store could not run again is refused in a test as well."""
    async with asyncframe.client(app_on(tmp_path, "sql")):
        task_id = await asyncframe.manager.submit(function, (argument,))
        await asyncframe.settled()
        with pytest.raises(RunAgainError, match=words):
            await asyncframe.manager.run_again(task_id)


@pytest.mark.asyncframe(lost_failures="off")
async def test_what_is_run_again_is_what_was_kept(asyncframe: Probe, tmp_path: Path) -> None:
    """A task runs again with what the app's store would have kept: a model is plain JSON."""
    async with asyncframe.client(app_on(tmp_path, "sql")):
        first = await asyncframe.manager.submit(refuse, (Order(number=1, day=date.min),))
        await asyncframe.settled()
        second = await asyncframe.manager.run_again(first)
        for task_id, name in ((first, "Order"), (second, "dict")):
            task = await asyncframe.completed(task_id, check=False)
            assert str(task.error) == name


@pytest.mark.asyncframe(app_rules="off")
async def test_the_rules_can_be_left_out(
    asyncframe: Probe, tmp_path: Path, tasks: SimpleNamespace
) -> None:
    """With app_rules="off" the test's own engine takes anything."""
    async with asyncframe.client(app_on(tmp_path, "celery", "sql")):
        tasks.hold(threading.Lock())
        tasks.unlimited()
        await asyncframe.settled()
        assert (await asyncframe.completed(pair((1,), (2,), Order(number=1, day=date.min)))).result


async def test_rules_are_of_one_app(
    asyncframe: Probe, tmp_path: Path, tasks: SimpleNamespace
) -> None:
    """Two apps in one test each have their own rules, which end with the app."""
    free = FastAPI(lifespan=setup_async_framework)

    @free.post("/unlimited")
    async def start() -> str:
        task_id: str = tasks.unlimited()
        return task_id

    strict = app_on(tmp_path, "celery")
    strict.post("/unlimited")(start)
    async with asyncframe.client(free) as lax, asyncframe.client(strict) as client:
        assert (await lax.post("/unlimited")).status_code == 200
        with pytest.raises(
            ValueError,
            match=r"^timeout is missing for .*\.unlimited: on a worker every task needs a time "
            r"limit, from its decorator, submit\(timeout=\.\.\.\) or "
            r"CeleryEngine\(default_limit=\.\.\.\)$",
        ):
            await client.post("/unlimited")
        await asyncframe.settled()
    asyncframe.assert_submitted(tasks.unlimited, times=1)
    tasks.unlimited()
    await asyncframe.settled()


def test_the_ini_file(pytester: pytest.Pytester) -> None:
    """asyncframe_app_rules = off leaves the rules out; another value is a usage error."""
    ini = "[pytest]\nasyncio_default_fixture_loop_scope = function\nasyncframe_app_rules = {}"
    pytester.makeini(ini.format("off"))
    pytester.makepyfile(
        """
        import threading
        from celery import Celery
        from fastapi import FastAPI
        from framework import background_task, setup_async_framework
        from framework.engines.celery import CeleryEngine

        celery_app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
        engine = CeleryEngine(celery_app)
        app = FastAPI(lifespan=lambda app: setup_async_framework(app, engine=engine))

        @background_task
        def hold(lock): pass

        def test_it(asyncframe):
            with asyncframe.client(app):
                hold(threading.Lock())
                asyncframe.run_until_idle()
        """
    )
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=1)

    pytester.makeini(ini.format("maybe"))
    found = pytester.runpytest("-p", "no:cacheprovider")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(
        ["*asyncframe_app_rules = 'maybe' in the ini file: it must be one of on, off"]
    )
