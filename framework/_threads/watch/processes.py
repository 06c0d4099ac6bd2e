"""Which processes of this machine run: by their numbers, and when they have started.

Processes that share a database or a broker know each other by texts that say where and since when
each runs. Whoever runs on the same machine sees at once when another one has ended.

Guarantees: a process that runs is never taken for ended. Whoever cannot see it, since it is on
another machine or in another container, or cannot tell, does not say that it has ended.
Relies on: Linux, to know when a process has started. Elsewhere ids are random, and of a holder only
its number is looked at; on Windows not even that.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from pathlib import Path
from typing import Final

from framework._records.ids import random_id

_RANDOM: Final = 20
_MACHINE: Final = 12
"""How many digits of an id are random, and how many stand for the machine; the rest is the start.

One that says nothing has no start: it is all random, as elsewhere and in older releases. Of those
that had 16 random digits, nobody finds the machine where it is now.
"""

_LIVES: Final = "lives"
"""When a process has started, if only that it runs is known."""

_START: Final = 19
"""The place of the start among what `/proc/PID/stat` has after the name, in clock ticks; see
proc(5), field 22."""

_PROC: Final = Path("/proc")
_BOOT: Final = "sys/kernel/random/boot_id"
_TIME: Final = "self/ns/time"


def boot() -> str | None:
    """Return a text that the processes of this machine share until it restarts.

    Those that have it have one monotonic clock. None if nothing tells.
    """
    try:
        return f"{(_PROC / _BOOT).read_text('ascii').strip()} {(_PROC / _TIME).readlink()}"
    except OSError:
        return None


# -- ids, which a database keeps together with the number


def process_id() -> str:
    """Return a new id for this process: random digits, its machine, and its start."""
    machine, start = _machine(), _start_of(os.getpid())
    if machine is None or not start.isdigit():
        return random_id()
    return f"{random_id()[:_RANDOM]}{machine}{_digits(start)}"


def has_ended(process_id: str, pid: int) -> bool:
    """Return whether a process has ended for sure, by its id and its number."""
    machine, start = process_id[_RANDOM:][:_MACHINE], process_id[_RANDOM + _MACHINE :]
    if not start or machine != _machine():
        return False
    found = _start_of(pid)
    return found != _LIVES and _digits(found) != start


def _digits(start: str) -> str:
    return f"{int(start):x}" if start else ""


def _machine() -> str | None:
    """Return a text that all who see the same processes share until the machine restarts.

    Numbers of containers are given again, but only when all of their processes have ended.
    """
    try:
        own = str((_PROC / "self").readlink())
        boot = (_PROC / _BOOT).read_text("ascii")
        spaces = [str((_PROC / "self/ns" / name).readlink()) for name in ("pid", "time")]
    except OSError:
        return None
    if own != str(os.getpid()):
        # These are the numbers of another container.
        return None
    return hashlib.sha256(f"{boot} {spaces}".encode()).hexdigest()[:_MACHINE]


# -- holders, which a broker keeps: they name the machine for people, and have the number


def holder_here() -> str:
    """Return a text for this process, unique across machines and restarts."""
    return holder_of(os.getpid())


def holder_of(pid: int) -> str:
    """Return the same for another process of this machine."""
    return f"{_named_machine()}|{pid}|{_start_of(pid)}"


def is_dead(holder: str) -> bool:
    """Return whether a process is known to be dead; False on another machine."""
    machine, _, process = holder.partition("|")
    pid, _, start = process.partition("|")
    if machine != _named_machine() or not pid.isdigit():
        return False
    # Another one may have its number by now.
    return _start_of(int(pid)) not in (start, _LIVES)


def _named_machine() -> str:
    """Return the host, its boot and its process namespace: containers have their own."""
    if not _NAMED:
        boot = _read(_PROC / _BOOT)[:8]
        table = "" if not boot else str((_PROC / "self/ns/pid").stat().st_ino)
        _NAMED.append(f"{socket.gethostname()}@{boot}.{table}".replace("|", "-"))
    return _NAMED[0]


_NAMED: list[str] = []


# -- both


def lives(pid: int) -> bool:
    """Return whether a process of this machine runs, whoever it belongs to."""
    return _start_of(pid) != ""


def _start_of(pid: int) -> str:
    """Return when a process has started, in ticks since the boot; "" if it does not run."""
    # The name stands in brackets, and may have any characters.
    after = _read(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    if len(after) > _START:
        # One that has ended keeps its number until its parent has heard of that.
        return "" if after[0] in ("Z", "X") else after[_START]
    if sys.platform == "win32":  # where signal 0 is Ctrl+C, for all that share the console
        return _LIVES
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except OSError:
        pass  # it is somebody else's, and so it is there
    return _LIVES


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
