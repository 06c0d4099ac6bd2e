"""Real Celery workers for tests, which end with the tests."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import redis.asyncio

from tests.patience import PATIENCE
from tests.programs import program

ROOT = Path(__file__).parents[3]


def client_of(url: str) -> Any:
    """Return a client for coroutines that waits as long as it is told to."""
    return redis.asyncio.Redis.from_url(url, decode_responses=True, socket_timeout=None)


class CeleryWorker:
    """A worker in processes of its own.

    Args:
        app: Module and name of the Celery app.
        url: Its Redis; the app's module reads it from the environment.
        options: Further arguments of ``celery worker``.
        environment: Further variables.

    Attributes:
        log: The last lines that it wrote.
    """

    def __init__(
        self,
        app: str,
        url: str,
        *options: str,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._command = [
            program("setpriv"), "--pdeathsig", "KILL",
            sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "INFO",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
            *(options or ("--concurrency", "2")),
        ]  # fmt: skip
        self._environment = {**os.environ, "ASYNCFRAME_TEST_REDIS": url, **(environment or {})}
        self.log: deque[str] = deque(maxlen=2000)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready: int | None = None
        self._came = threading.Condition()

    def start(self) -> CeleryWorker:
        """Start it and return once it takes tasks.

        Raises:
            RuntimeError: If it ended instead; its log is the message.
        """
        reading = self.begin()
        # The module closes the pipe when the worker is ready, and so does the worker's end.
        ready = os.read(reading, 1)
        if not ready:
            self.wait()
            raise RuntimeError(f"the worker did not start:\n{self.text}")
        return self

    def begin(self) -> int:
        """Start it and return a descriptor from which comes a byte once it takes tasks."""
        reading, writing = os.pipe()
        self._ready = reading
        environment = {**self._environment, "ASYNCFRAME_TEST_READY": str(writing)}
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=environment,
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        os.close(writing)
        self._reader = threading.Thread(target=self._read, name="worker-log", daemon=True)
        self._reader.start()
        return reading

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._came:
                self.log.append(line)
                self._came.notify_all()

    def saw(self, words: str) -> None:
        """Block until it has written a line with *words*."""
        with self._came:
            found = self._came.wait_for(lambda: any(words in line for line in self.log), PATIENCE)
        assert found, f"it did not say {words!r}:\n{self.text}"

    @property
    def text(self) -> str:
        """The last lines that it wrote."""
        return "".join(self.log)

    @property
    def pid(self) -> int:
        """Its main process."""
        assert self._process is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether its main process has ended."""
        return self._process is not None and self._process.poll() is not None

    def terminate(self) -> None:
        """Ask it to end what it does and then itself."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Return its exit status once it has ended."""
        assert self._process is not None
        assert self._reader is not None
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    async def waits_for_messages(self, client: Any) -> None:
        """Suspend until its main process waits for messages in the database of *client*."""
        waits = ("brpop", str(client.connection_pool.connection_kwargs["db"]))
        async with asyncio.timeout(PATIENCE):
            # Each look is an answer from Redis.
            while waits not in [(one["cmd"], one["db"]) for one in await client.client_list()]:
                pass

    def pause(self) -> None:
        """Hold its main process still, for good."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self) -> None:
        """End it at once, as a crash of its machine would, but for its pool's processes."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """End it if it runs."""
        process = self._process
        if self._ready is not None:
            os.close(self._ready)
            self._ready = None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._reader is not None:
            self._reader.join(PATIENCE)
        if process.stdout is not None:
            process.stdout.close()
