"""Real servers of the kinds that stores and brokers are, which end with the tests.

Each has a loopback port of its own.

Nothing is left behind, however the tests end: where there is `setpriv --pdeathsig`, it asks the
kernel to send the server a signal when the thread that started it ends. So servers are started on
the main thread.

None is started on Windows, which has neither the signals nor the users.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from pytest_asyncframe._backends.programs import copy_of_wheel, program

PATIENCE: Final = 60.0
"""Real seconds after which a server that is to end has failed to."""


ABRUPT: Final[signal.Signals] = getattr(signal, "SIGKILL", signal.SIGTERM)
"""Ends a process at once, as SIGTERM does on Windows, which has no SIGKILL."""


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
        self._setpriv = shutil.which("setpriv")
        if self._setpriv is None and self.owner is not None:
            pytest.skip(f"{type(self).__name__} needs setpriv, to run as {self.owner}")
        # Bound and not listening: the server may listen on the port, nobody is given it.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port: int = self._place.getsockname()[1]
        # Not in pytest's folder, which other users may not enter.
        self.folder = Path(tempfile.mkdtemp(prefix="asyncframe-server-"))
        if self.owner is not None:
            shutil.chown(self.folder, self.owner, _group(self.owner))
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
        return subprocess.Popen(
            [*self._as_owner(), *command],
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C", **self.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def _as_owner(self) -> list[str]:
        if self._setpriv is None:
            return []
        options = ["--pdeathsig", self.abrupt.name.removeprefix("SIG")]
        if self.owner is not None:
            options += [f"--reuid={self.owner}", f"--regid={_group(self.owner)}", "--init-groups"]
        return [self._setpriv, *options]

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


def _group(user: str) -> int:
    import pwd  # Windows has none

    return pwd.getpwnam(user).pw_gid


class RedisServer(Server):
    """A Redis whose data outlive `stop` and `kill`.

    Args:
        options: Further arguments of `redis-server`.
    """

    ready = "Ready to accept connections"
    orderly = signal.SIGTERM
    abrupt = ABRUPT

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


OTHERS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
"""Finds who else is connected to a database of PostgreSQL."""

EMPTY = """
DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO public
"""
"""Leaves in a database of PostgreSQL what is in a new one."""


def postgres_at(port: int) -> str:
    """Return the address of a `PostgresServer`, as SQLAlchemy reads it."""
    return f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"


class Databases:
    """Empty databases of a PostgreSQL, one after the other.

    Args:
        server: The address of a database there, of a user who may make others.
        prefix: What the names of these databases begin with, and of no others.
    """

    def __init__(self, server: str, prefix: str = "test") -> None:
        self._server = server
        self._names = map(f"{prefix}_{{}}".format, count(1))
        self._empty: list[str] = []

    def url(self, database: str) -> str:
        """Return a database's address as SQLAlchemy reads it."""
        from sqlalchemy import make_url  # only with a PostgreSQL

        found = make_url(self._server).set(drivername="postgresql+psycopg", database=database)
        return found.render_as_string(hide_password=False)

    def close(self) -> None:
        """Drop the databases that are kept for the next."""
        while self._empty:
            self._do(None, f"DROP DATABASE IF EXISTS {self._empty.pop()} WITH (FORCE)")

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
            self._do(None, f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield name
        finally:
            if self._do(name, OTHERS):
                self._do(None, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            else:
                self._do(name, EMPTY)
                self._empty.append(name)

    def _do(self, database: str | None, statement: str) -> list[tuple[Any, ...]]:
        """Execute a statement in a database; None is the one that the server was given with."""
        import psycopg  # only with a PostgreSQL

        address = self._server if database is None else self.url(database)
        with psycopg.connect(_of_psycopg(address), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()


def _of_psycopg(url: str) -> str:
    return re.sub(r"^\w+(\+\w+)?://", "postgresql://", url)


class PostgresServer(Server, Databases):
    """A PostgreSQL that never waits for a disk; `start` makes its files when they are not there.

    Args:
        connections: How many it takes at a time.
    """

    ready = "database system is ready to accept connections"
    orderly = signal.SIGINT  # ends open connections; SIGTERM would wait for them
    # After SIGKILL its shared memory would stay.
    abrupt = getattr(signal, "SIGQUIT", ABRUPT)

    def __init__(self, *, connections: int = 100) -> None:
        found = program("postgres")
        # It refuses to run as root. The user of Debian's package need not be there for a wheel.
        self.owner = "nobody" if os.geteuid() == 0 else None
        Server.__init__(self)
        self._postgres = found if self.owner is None else copy_of_wheel(found, self.folder)
        Databases.__init__(self, postgres_at(self.port))
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
