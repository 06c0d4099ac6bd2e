"""A process that runs tasks of a test, watched by what it writes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PATIENCE: Final = 60.0
"""Real seconds that a process may take to start."""

_GRACE: Final = 10.0
"""Real seconds that it may take to end in order."""


class TaskProcess:
    """A process that runs tasks, and ends with the test.

    Args:
        what: What it is, for messages.
        command: The program's module and its arguments, for ``python -m``.
        environment: Further variables of its environment.
    """

    def __init__(
        self,
        what: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._what = what
        self._watchers: list[Callable[[], object]] = []
        self._lines: deque[str] = deque(maxlen=1000)
        self._changed = threading.Condition()
        self._over = self._closing = False
        # All that this process can import, it can.
        path = os.pathsep.join([str(Path.cwd()), *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=what, daemon=True)
        self._reader.start()

    def line(self, beginning: str) -> str:
        """Wait for a line that begins with *beginning*, and return the rest of it.

        Raises:
            RuntimeError: If the process has ended instead.
        """

        def found() -> list[str]:
            return [line for line in self._lines if line.startswith(beginning)]

        with self._changed:
            self._changed.wait_for(lambda: found() or self._over, PATIENCE)
            lines = found()
        if not lines:
            raise RuntimeError(self.failure or f"{self._what} does not start:\n{self._text()}")
        return lines[0].removeprefix(beginning)

    @contextmanager
    def watched(self, call: Callable[[], object]) -> Iterator[None]:
        """Call *call* on another thread if it ends though nobody has ended it, inside the block."""
        with self._changed:
            self._watchers.append(call)
        try:
            yield
        finally:
            with self._changed:
                self._watchers.remove(call)

    @property
    def failure(self) -> str:
        """What to say of its end; "" if it runs, or was ended."""
        with self._changed:
            if not self._over or self._closing:
                return ""
        return f"{self._what} has ended with status {self._process.wait()}:\n{self._text()}"

    def close(self) -> None:
        """End it if it runs."""
        with self._changed:
            self._closing = True
        self._process.terminate()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_GRACE)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _text(self) -> str:
        return "\n".join(self._lines)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()
            calls = [] if self._closing else list(self._watchers)
        for call in calls:
            call()
