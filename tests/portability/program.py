"""What the test does on a system of `elsewhere`: imports, an app, a worker and the command line."""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import subprocess
import sys
from typing import Any

from fastapi.testclient import TestClient
from shop import URL, app, goes_on


def import_all() -> None:
    """Import every module of the packages."""
    for package in ("framework", "pytest_asyncframe"):
        found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
        for module in found:
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def use() -> None:
    """Start tasks, let one run out of time, cancel one, look at the page, and drain."""
    with TestClient(app) as client:

        def ended(name: str) -> Any:
            """Return how a task of the app has ended."""
            place = client.post(f"/{name}").headers["Location"]
            if name == "endless":
                answer = client.delete(place, headers={"X-Requested-With": "us"}).json()
                assert answer["cancelled"], answer
            task = client.get(place, params={"wait": 30}).json()
            return task["status"], task["result"]

        assert ended("added") == ("completed", 3)
        assert ended("steps") == ("completed", 1)
        assert ended("long") == ("timeout", None)
        assert ended("endless") == ("cancelled", None)
        assert client.get("/tasks/dashboard").status_code == 200
        assert client.get("/health/ready").json()["status"] == "ready"
        goes_on.set()


def give_to_a_worker() -> None:
    """Let a worker process run a task, end it, and ask the command line about the task."""
    command = [sys.executable, "-m", "framework"]
    with subprocess.Popen(
        [*command, "worker", "shop:app"], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert "is ready" in worker.stdout.readline()
        with TestClient(app) as client:
            place = client.post("/added").headers["Location"]
            task = client.get(place, params={"wait": 30}).json()
            assert (task["status"], task["result"]) == ("completed", 3), task
        # As Ctrl+Break on Windows, where nothing sends SIGTERM.
        on_windows = os.environ["ASYNCFRAME_AS"] == "windows"
        worker.send_signal(signal.SIGUSR2 if on_windows else signal.SIGTERM)
        assert worker.wait() == 0, worker.stdout.read()
    # As the console of Windows, whose encoding lacks most characters.
    told = subprocess.run(
        [*command, "list", "--store", URL, "--table"],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        text=True,
        encoding="cp1252",
        check=True,
    )
    assert told.stdout.count("shop.") == 5, told.stdout


if __name__ == "__main__":
    if "WORKERS" in os.environ:
        give_to_a_worker()
    else:
        import_all()
        use()
