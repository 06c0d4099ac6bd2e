"""Which processes of this machine run, by their ids and numbers."""

from __future__ import annotations

import pytest

from framework._threads.watch import processes


def test_known_by_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is known by its start, however short its machine has been running."""
    starts = [""]
    monkeypatch.setattr(processes, "_machine", lambda: "0123456789ab")
    monkeypatch.setattr(processes, "_start_of", lambda _: starts[-1])
    for ticks in (1, 0xFFF, 0xFFFF, 0x10000, 2**40):
        starts.append(str(ticks))
        process_id = processes.process_id()
        assert not processes.has_ended(process_id, 7), ticks
        starts.append(str(ticks + 1))
        assert processes.has_ended(process_id, 7), f"another one than {ticks} has its number"
        starts.append("")
        assert processes.has_ended(process_id, 7), ticks
