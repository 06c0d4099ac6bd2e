"""Tests of the threads of a process that may die."""

from __future__ import annotations

import _thread
import threading

from pytest_asyncframe._crashes.strand import unlisted
from tests.patience import PATIENCE


def test_a_raw_thread_is_listed_until_it_ends() -> None:
    """A raw thread is among the threads by its name, but not once it has ended."""
    ended = threading.Event()
    listed: list[bool] = []
    names: list[str] = []

    def run() -> None:
        names.append(threading.current_thread().name)
        listed.append(_thread.get_ident() in threading._active)  # type: ignore[attr-defined]

    def run_and_look() -> None:
        unlisted(run, "store")()
        listed.append(_thread.get_ident() in threading._active)  # type: ignore[attr-defined]
        ended.set()

    _thread.start_new_thread(run_and_look, ())
    assert ended.wait(PATIENCE)
    assert listed == [True, False]
    assert names == ["store"]
