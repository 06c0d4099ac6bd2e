"""Programs that tests run to their end: one way to wait for them, with one patience."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages and `tests`."""


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    text: str | None = None,
    status: int | None = 0,
    patience: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; what it prints is kept.

    Args:
        command: The program and its arguments.
        cwd: Where it runs; None is this process's folder.
        env: Added to this process's environment.
        text: What it reads; None is nothing.
        status: What it must end with; None takes any.
        patience: Seconds after which it is killed, and the test has failed. Only for what
            computes for minutes.

    Raises:
        AssertionError: If it ended with another status; the message has what it printed.
        subprocess.TimeoutExpired: If it did not end.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        input=text or "",
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=patience,
        check=False,
    )
    if status is not None:
        told = f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        assert done.returncode == status, told
    return done


def python(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    text: str | None = None,
    status: int | None = 0,
    patience: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Run another Python of this environment, which finds the packages and `tests`; see `run`."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return run(
        sys.executable,
        *arguments,
        cwd=cwd,
        env={"PYTHONPATH": path, **(env or {})},
        text=text,
        status=status,
        patience=patience,
    )
