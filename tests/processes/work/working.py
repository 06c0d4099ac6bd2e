"""Workers and the web process whose tasks they take."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.patience import PATIENCE
from tests.serving import ROOT, Server, serving

APP = "tests.processes.apps.shared_work:app"
READY = "is ready: process "


@contextmanager
def worker(
    environment: Mapping[str, str],
    *options: str,
    app: str = APP,
    within: Sequence[str] = (),
    until: str = READY,
) -> Iterator[Server]:
    """Run a worker, which is ready; it is killed afterwards if it still runs.

    Args:
        environment: Added to the environment.
        options: Of the command.
        app: The app.
        within: The program that starts it, and its arguments.
        until: What it writes once it is ready.
    """
    made = Server(
        subprocess.Popen(
            [*within, sys.executable, "-m", "framework", "worker", app, *options],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )
    try:
        made.wait_for(until)
        yield made
    finally:
        made.close()


class Web:
    """The web process of the app.

    Args:
        server: Serves it.
        runs: Where each run is noted.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, server: Server, runs: str) -> None:
        self.url = server.url
        self._runs = Path(runs)

    def post(self, path: str, body: object = None) -> object:
        """Send a request."""
        answer = httpx.post(f"{self.url}{path}", json=body, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str) -> object:
        """Send a request."""
        return httpx.get(f"{self.url}{path}", timeout=PATIENCE).json()

    def runs(self, word: str = "begin") -> list[tuple[str, str]]:
        """Return the process and the task of each run."""
        lines = self._runs.read_text("utf-8").splitlines() if self._runs.exists() else []
        found = [line.split() for line in lines]
        return [(pid, task_id) for told, pid, task_id in found if told == word]


@contextmanager
def web(environment: Mapping[str, str]) -> Iterator[Web]:
    """Serve the app."""
    with serving(APP, env=environment) as server:
        yield Web(server, environment["RUNS"])
