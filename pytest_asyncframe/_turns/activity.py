"""Whether a thread computes or blocks, as far as the system tells."""

from __future__ import annotations

import multiprocessing.process
import platform
import threading
from pathlib import Path
from typing import NamedTuple

_AT_WORK = ("R", "D")
"""States of a thread that has a processor or waits for one, or for a disk."""


def activity(native_id: int) -> object:
    """Return what equals the result of an earlier call if the thread has blocked since.

    A thread that polls, with short real sleeps, counts as one that blocks.

    Args:
        native_id: The system's identifier of a thread of this process.

    Returns:
        On Linux a value that equals nothing else while the thread computes or waits for a
        processor, and its processor time in ticks of 10 ms else (proc(5), fields 3, 14 and
        15 of ``stat``). Where there is no ``/proc``, always the same.
    """
    fields = _stat(native_id)
    if not fields:
        return None
    return object() if fields[0] in _AT_WORK else (fields[11], fields[12])


def child_activity() -> list[object]:
    """Return, for the children of `multiprocessing`, what `activity` does for threads."""
    found: list[object] = []
    for child in tuple(multiprocessing.process._children):  # type: ignore[attr-defined]
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text("latin-1").rpartition(")")[2].split()
        except OSError:
            continue
        found.append(object() if fields[0] in _AT_WORK else (child.pid, fields[11], fields[12]))
    return found


class Glance(NamedTuple):
    """What the system tells of a thread at one moment; see proc(5), ``schedstat``.

    Attributes:
        ran: For how many nanoseconds it has had a processor; -1 for one that is just beginning.
        turns: How many times it has got one.
        at_work: Whether it has one now, or waits for one.
        on_disk: Whether it waits for a disk.
        naps: Whether it is in a sleep of a library in C, such as SQLite has between two
            looks at a lock: it goes on by itself. Python's own sleep is none.
    """

    ran: int
    turns: int
    at_work: bool
    on_disk: bool
    naps: bool


BEGINNING = Glance(-1, 0, True, False, False)
"""A thread of which nothing is known yet."""

GONE = Glance(0, 0, False, False, False)
"""A thread that has ended, or any where there is no ``/proc``."""


def glance(native_id: int | None) -> Glance:
    """Return what the system tells of a thread now.

    Args:
        native_id: As of `activity`; None for a thread that is just beginning.
    """
    if native_id is None:
        return BEGINNING
    fields = _stat(native_id)
    if not fields:
        return GONE
    counted = _read(native_id, "schedstat").split()
    ticks = int(fields[11]) + int(fields[12])
    ran, turns = (int(counted[0]), int(counted[2])) if counted else (ticks * _TICK, 0)
    state = fields[0]
    return Glance(ran, turns, state == "R", state == "D", state == "S" and _naps(native_id))


def waits_for_a_thread(native_id: int) -> bool:
    """Whether a thread waits for a lock without a limit, so that only another can wake it."""
    call = _system_call(native_id)
    return _at_a_lock(call) and int(call[_LIMIT], 16) == 0


def native_threads() -> set[int]:
    """Return the identifiers of all threads there are, by the system's count."""
    try:
        return {int(task.name) for task in Path("/proc/self/task").iterdir()}
    except OSError:
        return set()


def unseen_threads_rest(before: set[int]) -> bool:
    """Whether all threads that Python knows nothing of wait for a lock.

    Those of a library in C may else be at work for a thread that waits for them.

    Args:
        before: Those of which it does not matter.
    """
    there = native_threads()
    unseen = there - before - {thread.native_id for thread in threading.enumerate()}
    return bool(there) and all(_at_a_lock(_system_call(native_id)) for native_id in unseen)


def _at_a_lock(call: list[str]) -> bool:
    return len(call) > _LIMIT and call[0] == _CALLS.get("futex")


def _naps(native_id: int) -> bool:
    call = _system_call(native_id)
    if not call or call[0] not in (_CALLS.get("nanosleep"), _CALLS.get("clock_nanosleep")):
        return False
    # Python sleeps until a moment of the monotonic clock; C libraries for a time.
    return call[0] == _CALLS["nanosleep"] or call[1:3] != ["0x1", "0x1"]


_TICK = 10_000_000
"""Nanoseconds of a tick, where the kernel counts no shorter times."""

_CALLS: dict[str, str] = {
    "x86_64": {"futex": "202", "nanosleep": "35", "clock_nanosleep": "230"},
    "aarch64": {"futex": "98", "nanosleep": "101", "clock_nanosleep": "115"},
}.get(platform.machine(), {})
"""Numbers of the kernel's calls, as in its ``unistd.h``; none where we do not know them."""

_LIMIT = 4
"""Where a futex call has the address of its limit, 0 for none: after its number, and three."""


def _system_call(native_id: int) -> list[str]:
    """Return the kernel's call that a thread blocks in, and its arguments; none if it runs."""
    return _read(native_id, "syscall").split()


def _read(native_id: int, name: str) -> str:
    try:
        return Path(f"/proc/self/task/{native_id}/{name}").read_text("latin-1")
    except OSError:
        return ""


def _stat(native_id: int) -> list[str]:
    # The name, in brackets, may hold anything.
    return _read(native_id, "stat").rpartition(")")[2].split()
