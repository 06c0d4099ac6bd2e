"""Real servers of the kinds that stores and brokers are, which end with the tests.

Each has a loopback port of its own.

Nothing is left behind, however the tests end: `setpriv --pdeathsig` asks the kernel to send the
server a signal when the thread that started it ends. So servers are started on the main thread.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import psycopg

from tests.patience import PATIENCE
from tests.programs import copy_of_wheel, program


class Server(ABC):
    """A server on a port that stays its own until `close`, also while it is stopped.

    Attributes:
        port: Where it listens on 127.0.0.1.
    """

    ready: ClassVar[str]
    """Stands in the line of the log that says that it takes connections."""
    orderly: ClassVar[signal.Signals]
    """Ends it without a loss."""
    abrupt: ClassVar[signal.Signals]
    """Ends it at once, and its children with it."""
    owner: str | None = None
    """The user that it runs as; None is the user who runs the tests."""

    def __init__(self) -> None:
        self._setpriv = program("setpriv")
        # Bound and not listening: the server may listen on the port, nobody is given it.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port: int = self._place.getsockname()[1]
        # Not in pytest's folder, which other users may not enter.
        self.folder = Path(tempfile.mkdtemp(prefix="asyncframe-server-"))
        if self.owner is not None:
            shutil.chown(self.folder, self.owner, pwd.getpwnam(self.owner).pw_gid)
        self._log: deque[str] = deque(maxlen=1000)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments."""

    def environment(self) -> dict[str, str]:
        """Return further variables of its environment."""
        return {}

    @property
    def log(self) -> str:
        """The last thousand lines that it wrote."""
        return "".join(self._log)

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not ended since; a paused one runs."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None, "the server is stopped"
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it takes connections.

        Raises:
            RuntimeError: If it ended instead; its log is the message.
        """
        assert self._process is None, "the server runs already"
        process = self.spawn(self.command())
        assert process.stdout is not None
        self._process = process
        ready = False
        for line in process.stdout:
            self._log.append(line)
            if ready := self.ready in line:
                break
        # A pipe that nobody empties would stop the server once it is full.
        self._reader = threading.Thread(
            target=self._log.extend, args=(process.stdout,), name="server-log", daemon=True
        )
        self._reader.start()
        if not ready:
            self.kill()
            raise RuntimeError(f"{type(self).__name__} did not start:\n{self.log}")

    def spawn(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Run a command as the server's owner, to end with the tests."""
        options = ["--pdeathsig", self.abrupt.name.removeprefix("SIG")]
        if self.owner is not None:
            group = pwd.getpwnam(self.owner).pw_gid
            options += [f"--reuid={self.owner}", f"--regid={group}", "--init-groups"]
        return subprocess.Popen(
            [self._setpriv, *options, *command],
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C", **self.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def stop(self) -> None:
        """End it in order; what it has taken is there after the next `start`."""
        self._end(self.orderly)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(self.abrupt)

    def pause(self) -> None:
        """Hold it still: it accepts connections and answers nothing until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on after `pause`; it answers what has come meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it if it runs, and give its folder and its port back."""
        if self._process is not None:
            self.kill()
        self._place.close()
        shutil.rmtree(self.folder)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server is stopped"
        process, self._process = self._process, None
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # a paused one hears nothing but SIGKILL
        process.wait(PATIENCE)
        if self._reader is not None:
            self._reader.join(PATIENCE)
            assert not self._reader.is_alive(), f"a child has outlived its parent:\n{self.log}"
        assert process.stdout is not None
        process.stdout.close()


class RedisServer(Server):
    """A Redis whose data outlive `stop` and `kill`.

    Args:
        options: Further arguments of `redis-server`.
    """

    ready = "Ready to accept connections"
    orderly = signal.SIGTERM
    abrupt = signal.SIGKILL

    def __init__(self, *options: str) -> None:
        self._program = program("redis-server")
        self._options = options
        super().__init__()

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        # What was handed to the system survives the process; to wait for a disk is needless.
        kept = ["--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        listening = ["--bind", "127.0.0.1", "--port", str(self.port)]
        return [self._program, *listening, "--dir", str(self.folder), *kept, *self._options]

    @property
    def url(self) -> str:
        """Its first database."""
        return f"redis://127.0.0.1:{self.port}/0"


class RabbitServer(Server):
    """A RabbitMQ whose durable queues outlive `stop` and `kill`."""

    ready = "Server startup complete"
    orderly = signal.SIGTERM
    abrupt = signal.SIGKILL

    def __init__(self) -> None:
        self._program = program("rabbitmq-server")
        self._epmd = program("epmd")
        super().__init__()
        self._places = [socket.socket() for _ in range(2)]
        for place in self._places:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(("127.0.0.1", 0))
        self._mapper: subprocess.Popen[str] | None = None
        (self.folder / "plugins").write_text("[].\n", encoding="utf-8")
        settings = f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console = true\n"
        (self.folder / "rabbitmq.conf").write_text(settings, encoding="utf-8")

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        return [self._program]

    def environment(self) -> dict[str, str]:
        """Return what names its files and its ports."""
        ports = [str(place.getsockname()[1]) for place in self._places]
        return {
            "HOME": str(self.folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": ports[0],
            "RABBITMQ_DIST_PORT": ports[1],
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            # One process that signals reach, and no shell around it.
            "RABBITMQ_ALLOW_INPUT": "1",
            # A scheduler without work sleeps at once, and keeps no processor busy.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        if self._mapper is None:
            # It would start one that outlives it.
            self._mapper = self.spawn([self._epmd])
        super().start()

    def close(self) -> None:
        """End it if it runs, and give its folder and its ports back."""
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait(PATIENCE)
            assert self._mapper.stdout is not None
            self._mapper.stdout.close()
        super().close()
        for place in self._places:
            place.close()

    @property
    def url(self) -> str:
        """Its first virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"


class FlowerServer(Server):
    """A flower, the web interface to Celery workers, of the tests' Celery app.

    Args:
        broker: The URL of the workers' Redis.
    """

    ready = "Capturing events"
    orderly = signal.SIGTERM
    abrupt = signal.SIGKILL

    def __init__(self, broker: str) -> None:
        self._broker = broker
        super().__init__()

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        celery = [sys.executable, "-m", "celery", "-A", "tests.processes.celery_app:celery_app"]
        return [*celery, "flower", f"--port={self.port}", "--address=127.0.0.1", "--logging=debug"]

    def environment(self) -> dict[str, str]:
        """Return where the broker is, and what opens the HTTP API."""
        return {
            "ASYNCFRAME_TEST_REDIS": self._broker,
            "FLOWER_UNAUTHENTICATED_API": "true",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    @property
    def url(self) -> str:
        """Its first page."""
        return f"http://127.0.0.1:{self.port}"


OTHERS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
"""Finds who else is connected to a database of PostgreSQL."""

EMPTY = """
DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO public
"""
"""Leaves in a database of PostgreSQL what is in a new one."""


class Databases:
    """Empty databases of a PostgreSQL, one after the other.

    Args:
        port: Where the server listens.
        prefix: What the names of these databases begin with, and of no others.

    Attributes:
        port: Where the server listens.
    """

    def __init__(self, port: int, prefix: str = "test") -> None:
        self.port = port
        self._names = map(f"{prefix}_{{}}".format, count(1))
        self._empty: list[str] = []

    def url(self, database: str) -> str:
        """Return a database's address as SQLAlchemy reads it."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the name of an empty database, which is nobody else's until the end.

        To make one takes five times as long as to empty one, so it is kept for the next; but it
        is dropped if somebody is still connected, who might write into it later.
        """
        if self._empty:
            name = self._empty.pop()
        else:
            name = next(self._names)
            self._do("postgres", f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield name
        finally:
            if self._do(name, OTHERS):
                self._do("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            else:
                self._do(name, EMPTY)
                self._empty.append(name)

    def _do(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        address = f"postgresql://postgres@127.0.0.1:{self.port}/{database}"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()


class PostgresServer(Server, Databases):
    """A PostgreSQL that never waits for a disk; `start` makes its files when they are not there.

    Args:
        connections: How many it takes at a time.
    """

    ready = "database system is ready to accept connections"
    orderly = signal.SIGINT  # ends open connections; SIGTERM would wait for them
    abrupt = signal.SIGQUIT  # after SIGKILL its shared memory would stay

    def __init__(self, *, connections: int = 100) -> None:
        found = program("postgres")
        # It refuses to run as root. The user of Debian's package need not be there for a wheel.
        self.owner = "nobody" if os.geteuid() == 0 else None
        Server.__init__(self)
        self._postgres = found if self.owner is None else copy_of_wheel(found, self.folder)
        Databases.__init__(self, self.port)
        self._data = str(self.folder / "data")
        self._connections = connections

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "jit": "off",
            "max_connections": self._connections,
        }
        words = [word for item in settings.items() for word in ("-c", "{}={}".format(*item))]
        return [self._postgres, "-D", self._data, *words]

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        if not Path(self._data).exists():
            initdb = str(Path(self._postgres).with_name("initdb"))
            options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
            # Small segments are what most of its time would go into.
            options += ["--no-sync", "--no-instructions", "--wal-segsize=1"]
            process = self.spawn([initdb, "-D", self._data, *options])
            printed, _ = process.communicate()
            assert process.returncode == 0, printed
        super().start()


class StandbyServer(PostgresServer):
    """A PostgreSQL that follows another one, which commits nothing before this one has it.

    Args:
        primary: The other one; it runs.
    """

    ready = "database system is ready to accept read"  # -only, or only before version 14

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._primary = primary

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        followed = f"host=127.0.0.1 port={self._primary.port} user=postgres"
        settings = [f"primary_conninfo={followed}", "wal_retrieve_retry_interval=100ms"]
        return [*super().command(), *(word for one in settings for word in ("-c", one))]

    def start(self) -> None:
        """Copy the other one's files while it is stopped for a moment, and follow it."""
        self._primary.stop()
        shutil.copytree(self._primary._data, self._data, copy_function=shutil.copy)
        Path(self._data, "standby.signal").touch()
        for path in (Path(self._data), *Path(self._data).rglob("*")):
            if self.owner is not None:
                shutil.chown(path, self.owner, pwd.getpwnam(self.owner).pw_gid)
        self._primary.start()
        super().start()
        self._primary._do("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._primary._do("postgres", "SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Take over, and return when it can be written."""
        self._do("postgres", "SELECT pg_promote()")
