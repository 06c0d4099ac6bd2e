"""Ids of processes that say where they run, so that others there know at once when one has ended.

An id has random digits, then what tells this machine from others, then the moment at which the
process started. Together with its number that is one process only.

Guarantees: a process that runs is never taken for ended. Whoever cannot see it, since it is on
another machine or in another container, or cannot tell, does not say that it has ended.
Relies on: Linux, for each of these; elsewhere ids are random, and nothing is known.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from framework._records.ids import random_id

_RANDOM: Final = 16
_MACHINE: Final = 12
"""How many digits of an id are random, and how many stand for the machine; the rest is the start.

One that is all random, as elsewhere and in older releases, has `_ALL_RANDOM`.
"""

_ALL_RANDOM: Final = 32
_START: Final = 19
"""The place of the start among what `/proc/PID/stat` has after the name, in clock ticks."""

_PROC: Final = Path("/proc")


def process_id() -> str:
    """Return a new id for this process."""
    machine, start = _machine(), _start_of(os.getpid())
    if machine is None or start is None:
        return random_id()
    made = f"{random_id()[:_RANDOM]}{machine}{start:x}"
    # Not of the length that ids have which say nothing.
    return made if len(made) != _ALL_RANDOM else random_id()


def has_ended(process_id: str, pid: int) -> bool:
    """Return whether a process has ended for sure, by its id and its number."""
    if len(process_id) == _ALL_RANDOM:
        return False
    here, start = process_id[_RANDOM:][:_MACHINE], process_id[_RANDOM + _MACHINE :]
    if here != _machine():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is somebody else's, and so it is there
    now = _start_of(pid)
    # Otherwise another one has its number by now.
    return now is not None and f"{now:x}" != start


def _machine() -> str | None:
    """Return a text that all who see the same processes share until the machine restarts.

    Numbers of containers are given again, but only when all of their processes have ended.
    """
    try:
        own = str((_PROC / "self").readlink())
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii")
        spaces = [str((_PROC / "self/ns" / name).readlink()) for name in ("pid", "time")]
    except OSError:
        return None
    if own != str(os.getpid()):
        # These are the numbers of another container.
        return None
    return hashlib.sha256(f"{boot} {spaces}".encode()).hexdigest()[:_MACHINE]


def _start_of(pid: int) -> int | None:
    """Return when a process has started, in ticks; None if that cannot be read."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
        # The name stands in brackets, and may have any characters.
        return int(text.rpartition(")")[2].split()[_START])
    except (OSError, IndexError, ValueError):
        return None
