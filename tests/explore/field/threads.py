"""Races of ``def`` routes, tasks on threads and threads of one's own; each is beside its cure."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException

from framework import background_task, setup_async_framework
from pytest_asyncframe.probe import Probe

cures = pytest.mark.parametrize("cured", [False, True], ids=["racy", "cured"])


def guard(cured: bool) -> Any:
    """Return a lock, or nothing that guards."""
    return threading.Lock() if cured else nullcontext()


def in_threads(*functions: Callable[[], None]) -> None:
    """Run each function on a thread of its own."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@cures
@pytest.mark.interleave
async def test_highest_number(asyncframe: Probe, cured: bool) -> None:
    """Two orders get the same number, which is one more than the highest so far."""
    app, orders, lock = FastAPI(lifespan=setup_async_framework), list[int](), guard(cured)

    @app.post("/orders")
    def order() -> int:
        with lock:
            number = max(orders, default=0) + 1
            orders.append(number)
        return number

    async with asyncframe.client(app) as client:
        answers = await asyncio.gather(client.post("/orders"), client.post("/orders"))
    assert {answer.json() for answer in answers} == {1, 2}


@cures
@pytest.mark.interleave
def test_iteration(asyncframe: Probe, cured: bool) -> None:
    """A dict gets a new key while somebody goes through it."""
    sessions, lock = {"ann": 1, "bob": 2}, guard(cured)

    @background_task
    def count() -> int:
        total = 0
        with lock:
            for user in sessions:
                total += sessions[user]
        return total

    @background_task
    def log_in() -> None:
        with lock:
            sessions["eve"] = 3

    first, second = count(), log_in()
    assert asyncframe.run_until_complete(first).result in (3, 6)
    asyncframe.run_until_complete(second)


@cures
@pytest.mark.interleave
def test_attribute_made_at_first_use(asyncframe: Probe, cured: bool) -> None:
    """Two callers have two of what should be one."""

    class Settings:
        def __init__(self) -> None:
            self.lock = guard(cured)

        def cache(self) -> dict[str, str]:
            with self.lock:
                if not hasattr(self, "_cache"):
                    self._cache: dict[str, str] = {}
                return self._cache

    settings = Settings()

    @background_task
    def read() -> int:
        return id(settings.cache())

    first, second = read(), read()
    result = asyncframe.run_until_complete(first).result
    assert result == asyncframe.run_until_complete(second).result


@cures
@pytest.mark.interleave
def test_ready_before_there_is_something(asyncframe: Probe, cured: bool) -> None:
    """A flag says that data is there, one line before it is."""

    class Model:
        ready = False
        weights: list[int] | None = None

    model = Model()

    @background_task
    def load() -> None:
        if cured:
            model.weights = [1, 2]
            model.ready = True
        else:
            model.ready = True
            model.weights = [1, 2]

    @background_task
    def predict() -> int:
        if not model.ready:
            return 0
        assert model.weights is not None
        return sum(model.weights)

    first, second = load(), predict()
    asyncframe.run_until_complete(first)
    assert asyncframe.run_until_complete(second).result in (0, 3)


@cures
@pytest.mark.interleave
def test_money_on_its_way(asyncframe: Probe, cured: bool) -> None:
    """An audit adds up two accounts while money is in neither."""
    accounts, lock = {"a": 10, "b": 0}, guard(cured)

    @background_task
    def transfer() -> None:
        with lock:
            accounts["a"] -= 5
            accounts["b"] += 5

    @background_task
    def audit() -> int:
        with lock:
            return sum(accounts.values())

    first, second = transfer(), audit()
    asyncframe.run_until_complete(first)
    assert asyncframe.run_until_complete(second).result == 10


@cures
@pytest.mark.interleave
def test_list_written_back(asyncframe: Probe, cured: bool) -> None:
    """A list is filtered and put back, and what came in between is gone."""
    state, lock = {"jobs": [1, 2, 3]}, guard(cured)

    @background_task
    def clean() -> None:
        with lock:
            kept = [job for job in state["jobs"] if job > 1]
            state["jobs"] = kept

    @background_task
    def add() -> None:
        with lock:
            state["jobs"].append(4)

    first, second = clean(), add()
    asyncframe.run_until_complete(first)
    asyncframe.run_until_complete(second)
    assert state["jobs"] == [2, 3, 4]


@cures
@pytest.mark.interleave
async def test_counter_in_a_file(asyncframe: Probe, cured: bool, tmp_path: Path) -> None:
    """Two requests read one number from a file and write the same next one."""
    app, file, lock = FastAPI(lifespan=setup_async_framework), tmp_path / "visits", guard(cured)
    file.write_text("0")

    @app.post("/visit")
    def visit() -> int:
        with lock:
            visits = int(file.read_text()) + 1
            file.write_text(str(visits))
        return visits

    async with asyncframe.client(app) as client:
        await asyncio.gather(client.post("/visit"), client.post("/visit"))
    assert file.read_text() == "2"


@cures
@pytest.mark.interleave
async def test_name_taken(asyncframe: Probe, cured: bool, tmp_path: Path) -> None:
    """Two sign-ups look whether a name is free, and both insert it."""
    path = str(tmp_path / "users.db")
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE users (name TEXT UNIQUE)")
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/sign-up")
    def sign_up() -> str:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            if cured:
                db.execute("BEGIN IMMEDIATE")
            found = db.execute("SELECT 1 FROM users WHERE name = 'ann'").fetchone()
            if found is None:
                db.execute("INSERT INTO users VALUES ('ann')")
            if cured:
                db.execute("COMMIT")
            return "taken" if found else "yours"

    async with asyncframe.client(app) as client:
        answers = await asyncio.gather(client.post("/sign-up"), client.post("/sign-up"))
    assert sorted(answer.json() for answer in answers) == ["taken", "yours"]


@cures
@pytest.mark.interleave
def test_folder_made_twice(asyncframe: Probe, cured: bool, tmp_path: Path) -> None:
    """Two tasks find that a folder is missing, and both make it."""
    folder = tmp_path / "exports"

    @background_task
    def export() -> None:
        if cured:
            folder.mkdir(exist_ok=True)
        elif not folder.exists():
            folder.mkdir()

    for task in [export(), export()]:
        asyncframe.run_until_complete(task)
    assert folder.is_dir()


@cures
@pytest.mark.interleave
def test_two_connections(asyncframe: Probe, cured: bool) -> None:
    """A slow connection is made twice, as nobody waits for the first."""
    shared, made, lock = dict[str, object](), list[object](), guard(cured)

    @background_task
    def use() -> object:
        with lock:
            if "connection" not in shared:
                time.sleep(0.1)
                shared["connection"] = object()
                made.append(shared["connection"])
        return shared["connection"]

    for task in [use(), use()]:
        asyncframe.run_until_complete(task)
    assert len(made) == 1


@cures
@pytest.mark.interleave
def test_last_item(asyncframe: Probe, cured: bool) -> None:
    """Two consumers see that a queue is not empty, and there is one item."""
    jobs: queue.Queue[str] = queue.Queue()
    jobs.put("a")

    @background_task
    def consume() -> str | None:
        if cured:
            try:
                return jobs.get_nowait()
            except queue.Empty:
                return None
        return None if jobs.empty() else jobs.get_nowait()

    tasks = [consume(), consume()]
    found = [asyncframe.run_until_complete(task).result for task in tasks]
    assert found.count("a") == 1


@cures
@pytest.mark.interleave
def test_after_the_end(asyncframe: Probe, cured: bool) -> None:
    """Something is added after the end was checked and everything flushed."""
    lines, written, state, lock = list[str](), list[str](), {"closed": False}, guard(cured)

    @background_task
    def log() -> bool:
        with lock:
            if state["closed"]:
                return False
            lines.append("line")
            return True

    @background_task
    def close() -> None:
        with lock:
            state["closed"] = True
            written.extend(lines)
            lines.clear()

    first, second = log(), close()
    kept = asyncframe.run_until_complete(first).result
    asyncframe.run_until_complete(second)
    assert written == (["line"] if kept else [])


@cures
@pytest.mark.interleave
def test_pool_of_threads_of_ones_own(asyncframe: Probe, cured: bool) -> None:
    """Parts of a sum are added on two threads of an executor."""
    total, lock = {"sum": 0}, guard(cured)

    def add(part: int) -> None:
        with lock:
            before = total["sum"]
            total["sum"] = before + part

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(add, [1, 2]))
    assert total["sum"] == 3


@cures
@pytest.mark.interleave
async def test_quota(asyncframe: Probe, cured: bool) -> None:
    """Of three requests only two have quota left, and all three are served."""
    app, quota, lock = FastAPI(lifespan=setup_async_framework), {"left": 2}, guard(cured)

    @app.get("/")
    def serve() -> None:
        with lock:
            if quota["left"] <= 0:
                raise HTTPException(429)
            left = quota["left"]
            quota["left"] = left - 1

    async with asyncframe.client(app) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429]


@cures
@pytest.mark.interleave
def test_woken_in_vain(asyncframe: Probe, cured: bool) -> None:
    """An event is cleared after the look that it is to repeat, and waits for a second item."""
    ready, items, taken = threading.Event(), list[int](), list[bool]()

    def consume() -> None:
        while not items:
            if cured:
                ready.wait(5)
                ready.clear()
            else:
                ready.clear()
                taken.append(ready.wait(5))
        items.pop()

    def produce() -> None:
        items.append(1)
        ready.set()

    in_threads(consume, produce)
    assert all(taken)


@cures
@pytest.mark.interleave
def test_log_rotated(asyncframe: Probe, cured: bool, tmp_path: Path) -> None:
    """A line is written to a log that was copied already and is not yet empty again."""
    path, old, lock = tmp_path / "log", tmp_path / "log.1", guard(cured)
    path.write_text("")

    def write() -> None:
        with lock, path.open("a") as file:
            file.write("line\n")

    def rotate() -> None:
        with lock:
            old.write_text(path.read_text())
            path.write_text("")

    in_threads(write, rotate)
    assert path.read_text() + old.read_text() == "line\n"


@cures
@pytest.mark.interleave
def test_evicted_while_read(asyncframe: Probe, cured: bool) -> None:
    """What a cache of one has found is evicted on the next line."""
    kept, errors, lock = OrderedDict({"a": 1}), list[KeyError](), guard(cured)

    def get() -> None:
        with lock:
            if "a" in kept:
                try:
                    kept.move_to_end("a")
                except KeyError as error:
                    errors.append(error)

    def put() -> None:
        with lock:
            kept["b"] = 2
            if len(kept) > 1:
                kept.popitem(last=False)

    in_threads(get, put)
    assert not errors
