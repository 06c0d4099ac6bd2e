"""Whether a thread computes or blocks, as the operating system sees it."""

from __future__ import annotations

import multiprocessing.process
import os
import platform
import sys
import threading
import traceback
from pathlib import Path
from typing import NamedTuple

_AT_WORK = ("R", "D")
"""States of a thread that runs, is ready to run, or waits for a disk."""


def activity(native_id: int) -> object:
    """Return a value that equals that of an earlier call if the thread has blocked since.

    A thread that polls with short real sleeps counts as blocked.

    Args:
        native_id: The system's identifier of a thread of this process.

    Returns:
        On Linux, a unique value while the thread runs or is ready to run, else its processor
        time in ticks of 10 ms (proc(5), fields 3, 14 and 15 of ``stat``). Without ``/proc``
        always the same value.
    """
    fields = _stat(_task(native_id))
    if not fields:
        return None
    return object() if fields[0] in _AT_WORK else (fields[11], fields[12])


def child_activity() -> list[object]:
    """Return for each child process of `multiprocessing` what `activity` returns for threads."""
    found: list[object] = []
    for child in tuple(multiprocessing.process._children):  # type: ignore[attr-defined]
        fields = _stat(f"/proc/{child.pid}")
        if fields:
            found.append(object() if fields[0] in _AT_WORK else (child.pid, *fields[11:13]))
    return found


class Glance(NamedTuple):
    """What the system says about a thread at one moment; see proc(5), ``schedstat``.

    Attributes:
        ran: Nanoseconds that it has run; -1 for a thread that is just starting.
        turns: Number of times that it got a processor.
        at_work: Whether it runs now or is ready to run.
        on_disk: Whether it waits for a disk.
        naps: Whether it sleeps in a C library, as SQLite does between two attempts to get a
            lock. Python's own ``time.sleep`` does not count.
    """

    ran: int
    turns: int
    at_work: bool
    on_disk: bool
    naps: bool


BEGINNING = Glance(-1, 0, True, False, False)
"""A thread that nothing is known about yet."""

GONE = Glance(0, 0, False, False, False)
"""A thread that has ended; any thread where there is no ``/proc``."""


def glance(native_id: int | None) -> Glance:
    """Return what the system says about a thread now.

    Args:
        native_id: The system's identifier; None for a thread that is just starting.
    """
    if native_id is None:
        return BEGINNING
    # First, since a sleep that ends while the rest is read is then seen, or has let the thread run.
    naps = _naps(native_id)
    fields = _stat(_task(native_id))
    if not fields:
        return GONE
    counted = _read(_task(native_id), "schedstat").split()
    ticks = int(fields[11]) + int(fields[12])
    ran, turns = (int(counted[0]), int(counted[2])) if counted else (ticks * _TICK, 0)
    state = fields[0]
    return Glance(ran, turns, state == "R", state == "D", naps)


def waits_for_a_thread(native_id: int) -> bool:
    """Whether a thread waits for a lock without a timeout, so that only others can wake it."""
    call = _system_call(native_id)
    return _at_a_lock(call) and int(call[_LIMIT], 16) == 0


def place(thread: threading.Thread) -> object:
    """Return where a thread is in its code, which equals that of another time if it is back there.

    A thread that watches files or sockets is never back: it may have been given more of them.
    """
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None or frame.f_globals.get("__name__") == "selectors":
        return object()
    # Not by instructions: the compiler puts the condition of a loop into the code twice.
    return [(one.f_code, line) for one, line in traceback.walk_stack(frame)]


def native_threads() -> set[int]:
    """Return the system's identifiers of all threads of this process."""
    try:
        # For speed: read at the start of each test, where paths would take twice as long.
        return {*map(int, os.listdir("/proc/self/task"))}  # noqa: PTH208
    except OSError:
        return set()


def unseen_threads_rest(before: set[int]) -> bool:
    """Whether all threads that Python does not know of wait for a lock.

    Otherwise a thread of a C library may be working for a Python thread that waits for it.

    Args:
        before: Threads that do not matter.
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
    # Python sleeps until a time of the monotonic clock (0x1, 0x1); C libraries for a duration.
    return call[0] == _CALLS["nanosleep"] or call[1:3] != ["0x1", "0x1"]


_TICK = 10_000_000
"""Nanoseconds of a tick, for kernels without ``schedstat``."""

_CALLS: dict[str, str] = {
    "x86_64": {"futex": "202", "nanosleep": "35", "clock_nanosleep": "230"},
    "aarch64": {"futex": "98", "nanosleep": "101", "clock_nanosleep": "115"},
}.get(platform.machine(), {})
"""Numbers of system calls, as in the kernel's ``unistd.h``; empty on other machines."""

_LIMIT = 4
"""Index of a futex call's timeout, 0 for none: after the call's number and three arguments."""


def _system_call(native_id: int) -> list[str]:
    """Return the system call that a thread blocks in, and its arguments; [] if it runs."""
    return _read(_task(native_id), "syscall").split()


def _task(native_id: int) -> str:
    return f"/proc/self/task/{native_id}"


def _read(folder: str, name: str) -> str:
    try:
        return Path(f"{folder}/{name}").read_text("latin-1")
    except OSError:
        return ""


def _stat(folder: str) -> list[str]:
    # The thread's name, in brackets, may contain anything.
    return _read(folder, "stat").rpartition(")")[2].split()
