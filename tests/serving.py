"""A real uvicorn in a process of its own, watched through its log and never polled."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from uvicorn.main import main

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds `tests`."""

READY = "Application startup complete"
STOPPING = "Waiting for application shutdown"


class Server:
    """A uvicorn process and what it has written so far.

    Attributes:
        process: The process that was started; with workers or reload, the parent.
        lines: Its output and that of its children, without line ends.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        line = self.wait_for("Uvicorn running on")
        found = re.search(r"http://[\w.:]+", line)
        assert found is not None, line
        return found[0]

    @property
    def log(self) -> str:
        """Everything that was written so far."""
        with self._changed:
            return "\n".join(self.lines)

    def wait_for(self, text: str, count: int = 1, *, patience: float = PATIENCE) -> str:
        """Block until *count* lines contain *text*; return the last of them."""

        def found() -> list[str]:
            return [line for line in self.lines if text in line]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= count or self._ended, patience)
            lines = found()
        assert len(lines) >= count, f"{len(lines)} of {count} lines with {text!r} in\n{self.log}"
        return lines[count - 1]

    def send_signal(self, number: int) -> None:
        """Send a signal to the process that was started."""
        self.process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Block until the process has ended and its log is complete; return its status.

        The log is complete when nobody holds the pipe any more, so no child is left either.
        """
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {timeout} s:\n{self.log}") from None
        self._reader.join(timeout)
        assert not self._reader.is_alive(), f"a child has outlived its parent:\n{self.log}"
        return status

    def close(self) -> None:
        """Kill what still runs."""
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _patience() -> list[str]:
    """Return what lets workers import for longer than the 5 s after which uvicorn kills them.

    It is less than the patience of a test: of a worker that is killed while uvicorn asks whether
    it lives, uvicorn learns only after that time. Before 0.37 there is no such option.
    """
    option = "--timeout-worker-healthcheck"
    known = any(option in one.opts for one in main.params)
    return [option, str(round(PATIENCE / 2))] if known else []


@contextmanager
def serving(
    app: str,
    *options: str,
    env: Mapping[str, str] | None = None,
    app_dir: Path = ROOT,
    until: str = READY,
    processes: int = 1,
) -> Iterator[Server]:
    """Serve *app* on a free loopback port; ready when *until* was logged.

    Args:
        app: Import string, such as ``"tests.framework.apps.busy:app"``.
        options: Further arguments of uvicorn.
        env: Added to the environment.
        app_dir: Where *app* is imported from.
        until: The line to wait for.
        processes: How many processes write it.

    Yields:
        The server; it is killed afterwards if it still runs.
    """
    command = [sys.executable, "-m", "uvicorn", app, "--app-dir", str(app_dir)]
    command += ["--host", "127.0.0.1", "--port", "0", "--no-use-colors", *_patience(), *options]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    server = Server(process)
    try:
        server.wait_for(until, processes)
        yield server
    finally:
        server.close()
