"""Whether a thread computes or blocks, as far as the system tells."""

from __future__ import annotations

from pathlib import Path

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


def runs(native_id: int | None) -> object:
    """Return what equals the result of an earlier call if the thread has not run since.

    Args:
        native_id: As of `activity`; None for a thread that is just beginning.

    Returns:
        As `activity`, but by nanoseconds, where the kernel counts them (``schedstat``).
    """
    if native_id is None:
        return object()
    fields = _stat(native_id)
    if not fields:
        return None
    if fields[0] in _AT_WORK:
        return object()
    try:
        return Path(f"/proc/self/task/{native_id}/schedstat").read_text("latin-1")
    except OSError:
        return (fields[11], fields[12])


def _stat(native_id: int) -> list[str]:
    try:
        text = Path(f"/proc/self/task/{native_id}/stat").read_text("latin-1")
    except OSError:
        return []
    # The name, in brackets, may hold anything.
    return text.rpartition(")")[2].split()
