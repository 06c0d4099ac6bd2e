"""Real servers of the kinds that stores and brokers are, which end with the tests.

Those that the plugin starts for its users as well are in its `_backends.servers`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from pytest_asyncframe._backends.servers import (
    ABRUPT,
    Databases,
    PostgresServer,
    RedisServer,
    Server,
    postgres_at,
)
from tests.patience import PATIENCE
from tests.programs import program

__all__ = ["Databases", "PostgresServer", "RedisServer", "Server", "postgres_at"]


class RabbitServer(Server):
    """A RabbitMQ whose durable queues outlive `stop` and `kill`."""

    ready = "Server startup complete"
    orderly = signal.SIGTERM
    abrupt = ABRUPT

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
    abrupt = ABRUPT

    def __init__(self, broker: str) -> None:
        self._broker = broker
        super().__init__()

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        celery = [sys.executable, "-m", "celery", "-A", "tests.processes.celery.app:celery_app"]
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
        import pwd  # Windows has none

        self._primary.stop()
        shutil.copytree(self._primary._data, self._data, copy_function=shutil.copy)
        Path(self._data, "standby.signal").touch()
        for path in (Path(self._data), *Path(self._data).rglob("*")):
            if self.owner is not None:
                shutil.chown(path, self.owner, pwd.getpwnam(self.owner).pw_gid)
        self._primary.start()
        super().start()
        self._primary._do(None, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._primary._do(None, "SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Take over, and return when it can be written."""
        self._do("postgres", "SELECT pg_promote()")
