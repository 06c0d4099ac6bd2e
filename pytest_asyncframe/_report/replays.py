"""Replays at the end of a test: its tasks that go on from their steps take the same way again."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Final

from framework.testing import replay_tasks
from pytest_asyncframe._seen.matchers import described
from pytest_asyncframe._toolkit.toolkit import Toolkit

_LATER: Final = 90_061.0
"""By how many seconds the date of a replay is later: a day, an hour, a minute and a second."""


def findings(toolkit: Toolkit) -> list[str]:
    """Replay the tasks of a test that has passed so far; return what was found, a text each.

    Nothing is replayed where time does not move by itself, or tasks have not ended.
    """
    recorder = toolkit.recorder
    calls = {
        record: call
        for record, call in recorder.to_replay.items()
        if call is not None and record.status.is_final
    }
    clock, sequencer = toolkit.clock, toolkit.sequencer
    # Where threads take turns, time must move by itself, or nobody would go on.
    can_wait = sequencer is None or (clock is not None and sequencer.moves)
    if not calls or not can_wait or recorder.unsettled:
        return []
    later = nullcontext() if clock is None else clock.later(_LATER)
    with later:
        found = replay_tasks(calls, clock, None if clock is None else toolkit.loop_factory)
    return [
        f"another way from its steps: {described(record)}\n"
        f"    replayed, it {one.what}\n    {one.cure}"
        for record, differences in found.items()
        for one in differences
    ]
