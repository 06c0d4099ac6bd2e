"""Work that still runs when a test ends."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Final

from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe.clock import StuckError

GRACE: Final = 0.2
"""Real seconds that running work has to finish when the test ends."""


def finish_running_work(toolkit: Toolkit) -> None:
    """Let running work finish; start nothing new and do not move time."""
    if toolkit.sequencer is None:
        unfinished = toolkit.recorder.unfinished
        ended = threading.Semaphore(0)
        with ExitStack() as watches:
            for one in unfinished:
                watches.enter_context(toolkit.recorder.watching(one.record, ended.release))
            # Until none ends any more. What remains is a finding.
            while unfinished and ended.acquire(timeout=GRACE):
                unfinished.pop()
        return
    sequencer, first = toolkit.sequencer, toolkit.sequencer.first
    watchdog = sequencer.watchdog
    kept = sequencer.starts, watchdog.patience
    sequencer.starts = sequencer.starts and not sequencer.hold
    watchdog.patience = min(watchdog.patience, GRACE)
    assert first is not None
    try:
        sequencer.settle(first)
    except StuckError:  # a task blocks, which is a finding
        pass
    finally:
        sequencer.starts, watchdog.patience = kept
