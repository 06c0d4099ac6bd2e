"""The servers of one run of pytest: the user's, or its own, started when a test needs them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from functools import cached_property

import pytest

from pytest_asyncframe._backends.processes.task_process import TaskProcess
from pytest_asyncframe._backends.servers import Databases, PostgresServer, RedisServer


class Servers:
    """The servers of one run.

    Args:
        config: The configuration, with whose end the servers end.

    Attributes:
        token: What this run calls its own on the servers of a user.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._kept: dict[object, TaskProcess] = {}
        self.token: str = f"asyncframe_test_{secrets.token_hex(4)}"

    @property
    def app(self) -> str:
        """The app that worker processes import, ``module:app``; "" for that of the test."""
        return str(self._config.getini("asyncframe_app"))

    @cached_property
    def postgresql(self) -> Databases:
        """A PostgreSQL; the test is skipped if the machine has none."""
        url = self._given("postgresql_url")
        if url:
            databases = Databases(url, self.token)
            self._check("postgresql_url", databases)
            self._config.add_cleanup(databases.close)
            return databases
        server = PostgresServer()
        self._config.add_cleanup(server.close)
        server.start()
        return server

    @cached_property
    def redis(self) -> str:
        """The address of a Redis; the test is skipped if the machine has none."""
        url = self._given("redis_url")
        if url:
            self._check_redis(url)
            return url
        server = RedisServer("--appendonly", "no")
        self._config.add_cleanup(server.close)
        server.start()
        return server.url

    def kept(self, key: object, make: Callable[[], TaskProcess]) -> TaskProcess:
        """Return the process with a key, which is made if there is none, and ends with the run."""
        found = self._kept.get(key)
        if found is None or found.failure:
            found = self._kept[key] = make()
            self._config.add_cleanup(found.close)
        return found

    def _given(self, name: str) -> str:
        """Return the address of a user's own server; "" if there is none."""
        return os.environ.get(f"ASYNCFRAME_{name.upper()}") or self._config.getini(
            f"asyncframe_{name}"
        )

    def _check_redis(self, url: str) -> None:
        import redis  # only with a Redis

        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
        except (ValueError, redis.RedisError) as error:
            raise pytest.UsageError(f"asyncframe_redis_url: {url!r}: {error}") from error

    def _check(self, name: str, databases: Databases) -> None:
        try:
            with databases.database():
                pass
        except Exception as error:  # whatever the driver raises
            text = (
                f"asyncframe_{name}: no database can be made there: {str(error).strip()}; it must "
                "be the address of a database whose user may make others, such as "
                "postgresql://postgres@localhost/postgres"
            )
            raise pytest.UsageError(text) from error


_SERVERS = pytest.StashKey[Servers]()


def servers_of(config: pytest.Config) -> Servers:
    """Return the servers of a run."""
    return config.stash.setdefault(_SERVERS, Servers(config))
