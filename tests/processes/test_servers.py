"""The servers of these tests: empty for each test, stopped when told to, gone afterwards."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
import sqlalchemy

from tests.children import python
from tests.patience import PATIENCE
from tests.processes.servers import Databases, PostgresServer, RedisServer
from tests.processes.sharing import DATABASES, SERVERS, port_of
from tests.programs import program

ROOT = Path(__file__).resolve().parents[2]

PARENT = """
import sys
from tests.processes.servers import PostgresServer, RedisServer
for server in (RedisServer(), PostgresServer()):
    server.start()
    print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("turn", ["first", "second"])
def test_redis_is_empty(redis_url: str, turn: str) -> None:
    """No test finds in the Redis what another has left there."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", turn)


@pytest.mark.parametrize("turn", ["first", "second"])
def test_database_is_empty(postgres_url: str, turn: str) -> None:
    """Each test has a database of PostgreSQL in which no other has made tables."""
    engine = sqlalchemy.create_engine(postgres_url)
    with engine.begin() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == []
        connection.execute(sqlalchemy.text("CREATE TABLE left_by_a_test (turn text)"))
    engine.dispose()


def test_database_is_dropped_under_a_connection(shared_postgres: Databases) -> None:
    """A connection that a test has left open keeps no database."""
    with shared_postgres.database() as name:
        address = shared_postgres.url(name).replace("+psycopg", "")
        left = psycopg.connect(address)

    with pytest.raises(psycopg.OperationalError, match=f'database "{name}" does not exist'):
        psycopg.connect(address)
    left.close()


def test_sqlite_url_is_a_new_file(sqlite_url: str, tmp_path: Path) -> None:
    """SQLite's file is made in the test's own folder by the first who writes."""
    assert list(tmp_path.iterdir()) == []
    engine = sqlalchemy.create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE tasks (id text)"))
    engine.dispose()
    assert [file.name for file in tmp_path.iterdir()] == ["tasks.db"]


@pytest.mark.parametrize("end", [RedisServer.stop, RedisServer.kill])
def test_redis_goes_and_comes_back(redis_server: RedisServer, end) -> None:
    """A Redis that was ended refuses connections; started again, it has its port and its data."""
    with redis.Redis.from_url(redis_server.url, retry=None) as client:
        client.set("kept", "yes")
        end(redis_server)
        with pytest.raises(redis.exceptions.ConnectionError, match=r"^Error 111 connecting to "):
            client.get("kept")
        redis_server.start()
        assert client.get("kept") == b"yes"


def test_redis_pauses(redis_server: RedisServer) -> None:
    """A paused Redis takes connections and answers only when it goes on."""
    redis_server.pause()
    with socket.create_connection(("127.0.0.1", redis_server.port), PATIENCE) as client:
        client.sendall(b"PING\r\n")
        assert psutil.Process(redis_server.pid).status() == psutil.STATUS_STOPPED
        assert select.select([client], [], [], 0)[0] == []
        redis_server.resume()
        assert client.recv(100) == b"+PONG\r\n"


def test_postgres_goes_and_comes_back(postgres_server: PostgresServer) -> None:
    """A PostgreSQL that crashed refuses connections; started again, it has its data."""
    with postgres_server.database() as name:
        engine = sqlalchemy.create_engine(postgres_server.url(name))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE kept (id text)"))
        postgres_server.kill()
        engine.dispose()
        with pytest.raises(
            sqlalchemy.exc.OperationalError,
            match=r"^\(psycopg\.OperationalError\) connection failed: .* Connection refused\n",
        ):
            engine.connect()
        postgres_server.start()
        assert sqlalchemy.inspect(engine).get_table_names() == ["kept"]
        engine.dispose()


@pytest.mark.extended("servers")
def test_close_while_paused() -> None:
    """Closing ends a server that is paused and removes its folder."""
    server = RedisServer()
    server.start()
    ended = os.pidfd_open(server.pid)
    server.pause()
    server.close()
    assert select.select([ended], [], [], PATIENCE)[0]
    os.close(ended)
    assert not server.folder.exists()


@pytest.mark.extended("servers")
def test_log_of_a_failed_start() -> None:
    """A server that does not start says in the error what it wrote."""
    server = RedisServer("--no-such-option", "1")
    with pytest.raises(RuntimeError, match=r"^RedisServer did not start:\n(?s:.)*no-such-option"):
        server.start()
    server.close()


@pytest.mark.extended("servers")
def test_no_server_outlives_a_killed_parent() -> None:
    """When the process that started servers is killed, the servers end too."""
    for name in ("postgres", "redis-server"):
        program(name)
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        started = [parent.stdout.readline().split() for _ in range(2)]
        handles = [os.pidfd_open(int(pid)) for pid, _ in started]
        assert select.select(handles, [], [], 0)[0] == []
        parent.kill()
    for handle, (_, folder) in zip(handles, started, strict=True):
        assert select.select([handle], [], [], PATIENCE)[0] == [handle]
        os.close(handle)
        shutil.rmtree(folder)


ASKING = """
import sys
from pathlib import Path
from tests.processes.sharing import port_of
print(port_of("redis-server", Path(sys.argv[1]), int(sys.argv[2])))
"""


@pytest.mark.extended("servers")
def test_a_run_shares_a_server(tmp_path: Path) -> None:
    """Processes that ask at once share a server, which outlives them, and ends with the run."""
    for name in SERVERS:
        program(name)
    run = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    try:
        with ThreadPoolExecutor(3) as threads:
            asked = [threads.submit(python, "-c", ASKING, tmp_path, str(run.pid)) for _ in range(3)]
            (port,) = {one.result().stdout for one in asked}
        with redis.Redis(port=int(port), db=DATABASES - 1) as client:
            client.set("kept", "yes")
            ended = os.pidfd_open(client.info("server")["process_id"])
    finally:
        run.kill()
        run.communicate()
    assert select.select([ended], [], [], PATIENCE)[0] == [ended]
    os.close(ended)


@pytest.mark.extended("servers")
def test_a_server_that_cannot_be_shared(tmp_path: Path) -> None:
    """Whoever asks for a server that does not start hears what it wrote."""
    with pytest.raises(
        AssertionError,
        match=r"^.+ ended with 1:\n(?s:.)*\nProcessLookupError: \[Errno 3\] No such "
        r"process\n$",
    ):
        # No process has this number.
        port_of("redis-server", tmp_path, 2**22)
