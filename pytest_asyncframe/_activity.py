"""Whether a thread computes or blocks, as far as the system tells."""

from __future__ import annotations

from pathlib import Path


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
    try:
        text = Path(f"/proc/self/task/{native_id}/stat").read_text("latin-1")
    except OSError:
        return None
    # The name, in brackets, may hold anything.
    fields = text.rpartition(")")[2].split()
    return object() if fields[0] == "R" else (fields[11], fields[12])
