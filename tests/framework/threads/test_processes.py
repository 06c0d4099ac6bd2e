"""Which processes of this machine run, by their ids and numbers."""

from __future__ import annotations

import pytest

from framework._threads.watch import processes


@pytest.mark.parametrize("ticks", [1, 0xFFF, 0xFFFF, 0x10000, 2**40])
def test_known_by_its_start(monkeypatch: pytest.MonkeyPatch, ticks: int) -> None:
    """A process is known by its start, however short its machine has been running."""
    starts = [str(ticks)]
    monkeypatch.setattr(processes, "_machine", lambda: "0123456789ab")
    monkeypatch.setattr(processes, "_start_of", lambda _: starts[-1])
    process_id = processes.process_id()

    assert not processes.has_ended(process_id, 7)
    starts.append(str(ticks + 1))
    assert processes.has_ended(process_id, 7), "another one has its number"
    starts.append("")
    assert processes.has_ended(process_id, 7)
