"""Stores and brokers for tests: real servers, started when a test first asks for one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from framework._manager import cancelling
from framework.engines.celery import CeleryEngine, _session
from tests.patience import PATIENCE
from tests.processes.celery.workers import CeleryWorker
from tests.processes.servers import (
    Databases,
    FlowerServer,
    PostgresServer,
    RabbitServer,
    RedisServer,
    postgres_at,
)
from tests.processes.sharing import RedisDatabase, port_of
from tests.tiers import back_ends

LIMIT = 300
"""Seconds for a test here, unless it says otherwise: one server after the other starts."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder more time than others have, but for those of a soak."""
    for item in items:
        own = any(item.iter_markers("timeout")) or item.get_closest_marker("soak") is not None
        if item.path.is_relative_to(Path(__file__).parent) and not own:
            item.add_marker(pytest.mark.timeout(LIMIT))


@pytest.fixture(scope="session")
def run_servers(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Callable[[str], int]:
    """Return the port of a server that all processes of this run share, by its program."""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        return lambda name: port_of(name, folder.parent, os.getppid())
    return lambda name: port_of(name, folder, os.getpid())


@pytest.fixture(scope="session")
def process_number(request: pytest.FixtureRequest) -> int:
    """Which of the processes of this run this is, from 0 on."""
    given: dict[str, str] = getattr(request.config, "workerinput", {"workerid": "gw0"})
    return int(given["workerid"].removeprefix("gw"))


@pytest.fixture(scope="session")
def shared_redis(run_servers: Callable[[str], int], process_number: int) -> RedisDatabase:
    """One database for all tests of this process; what they ask for is `redis_url`."""
    number = 2 * process_number
    return RedisDatabase(f"redis://127.0.0.1:{run_servers('redis-server')}/{number}")


@pytest.fixture
def redis_url(shared_redis: RedisDatabase) -> str:
    """An empty database; a test that stops or configures its Redis takes `redis_server`."""
    with redis.Redis.from_url(shared_redis.url) as client:
        client.flushdb()
    return shared_redis.url


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running Redis of the test's own, to stop, kill, pause and start again."""
    with closing(RedisServer()) as server:
        server.start()
        yield server


@pytest.fixture(scope="session")
def shared_rabbit() -> Iterator[RabbitServer]:
    """One RabbitMQ for all tests of this process; what they ask for is `rabbit_server`."""
    with closing(RabbitServer()) as server:
        yield server


@pytest.fixture
def rabbit_server(shared_rabbit: RabbitServer) -> Iterator[RabbitServer]:
    """A running RabbitMQ, to stop, kill, pause and start again; a test has a queue of its own.

    None starts as slowly, so it is not started once more for each test.
    """
    if not shared_rabbit.is_running:
        shared_rabbit.start()
    yield shared_rabbit
    if shared_rabbit.is_running:
        shared_rabbit.resume()


@pytest.fixture(scope="session")
def shared_postgres(run_servers: Callable[[str], int], process_number: int) -> Databases:
    """The databases of this process; what tests ask for is `postgres_url`."""
    return Databases(postgres_at(run_servers("postgres")), f"test_{process_number}")


@pytest.fixture
def postgres_url(shared_postgres: Databases) -> Iterator[str]:
    """An empty database of the test's own in PostgreSQL."""
    with shared_postgres.database() as name:
        yield shared_postgres.url(name)


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL of the test's own, to stop, kill and start again."""
    with closing(PostgresServer()) as server:
        server.start()
        yield server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file of SQLite that is not there yet."""
    return f"sqlite:///{tmp_path / 'tasks.db'}"


@pytest.fixture(scope="session")
def celery_redis(run_servers: Callable[[str], int], process_number: int) -> RedisDatabase:
    """The database of `celery_worker`, which nobody empties."""
    number = 2 * process_number + 1
    return RedisDatabase(f"redis://127.0.0.1:{run_servers('redis-server')}/{number}")


@pytest.fixture(scope="session")
def celery_worker(celery_redis: RedisDatabase) -> Iterator[CeleryWorker]:
    """One worker with two processes for all tests of this process.

    It is not shared with other processes: some tests occupy both of its own.
    """
    with closing(CeleryWorker("tests.processes.celery.app:celery_app", celery_redis.url)) as worker:
        yield worker.start()


@pytest.fixture
def celery_engine(celery_redis: RedisDatabase, celery_worker: CeleryWorker) -> CeleryEngine:
    """An engine whose tasks the worker runs."""
    from tests.processes.celery.app import make

    return make(celery_redis.url)


@pytest.fixture(scope="session")
def fragile_worker(celery_redis: RedisDatabase) -> Iterator[CeleryWorker]:
    """Another worker, with a queue of its own, whose processes may be killed.

    What they have covered is lost with them, which is a pity for no other test then.
    """
    options = ("--concurrency", "2", "-Q", "fragile", "-n", "fragile@%h")
    environment = {"ASYNCFRAME_TEST_QUEUE": "fragile"}
    app = "tests.processes.celery.app:celery_app"
    with closing(CeleryWorker(app, celery_redis.url, *options, environment=environment)) as worker:
        yield worker.start()


@pytest.fixture
def fragile_engine(celery_redis: RedisDatabase, fragile_worker: CeleryWorker) -> CeleryEngine:
    """An engine whose tasks that worker runs."""
    from tests.processes.celery.app import make

    return make(celery_redis.url, queue="fragile")


@pytest.fixture(scope="session")
def watched_worker(celery_redis: RedisDatabase) -> Iterator[CeleryWorker]:
    """A worker with a queue of its own that sends events and has a result backend."""
    options = ("--concurrency", "2", "-E", "-Q", "watched", "-n", "watched@%h")
    environment = {"ASYNCFRAME_TEST_QUEUE": "watched", "ASYNCFRAME_TEST_BACKEND": "1"}
    app = "tests.processes.celery.app:celery_app"
    with closing(CeleryWorker(app, celery_redis.url, *options, environment=environment)) as worker:
        yield worker.start()


@pytest.fixture
def watched_engine(celery_redis: RedisDatabase, watched_worker: CeleryWorker) -> CeleryEngine:
    """An engine whose tasks that worker runs."""
    from tests.processes.celery.app import make

    engine = make(celery_redis.url, queue="watched")
    engine.app.conf.result_backend = celery_redis.url
    return engine


@pytest.fixture(scope="session")
def flower(celery_redis: RedisDatabase, watched_worker: CeleryWorker) -> Iterator[FlowerServer]:
    """A flower that has heard of the worker."""
    from tests.processes.celery.app import make

    control = make(celery_redis.url).app.control
    with closing(FlowerServer(celery_redis.url)) as server:
        server.start()
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            # It knows the workers by their events; each look is an answer.
            while not client.get("/workers", params={"json": "1"}).json()["data"]:
                control.broadcast("heartbeat")
        yield server


@pytest.fixture
def patient_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a cancellation wait for as long as a worker of a busy machine takes to hear of it."""
    monkeypatch.setattr(cancelling, "_PATIENCE", PATIENCE)
    monkeypatch.setattr(cancelling, "_FAR_PATIENCE", PATIENCE)
    # Redis answers within five seconds, whatever is asked.
    monkeypatch.setattr(_session, "_HEARS", 4.0)


@pytest.fixture
def celery_conformance_engine(celery_engine: CeleryEngine) -> CeleryEngine:
    """The engine of the conformance suite, by the name that it asks for."""
    return celery_engine


@pytest.fixture(params=back_ends(["sqlite", "postgres"]))
def sql_url(request: pytest.FixtureRequest) -> str:
    """An empty database of the test's own, of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
