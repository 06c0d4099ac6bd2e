"""Tests of the threads of a process that may die."""

from __future__ import annotations

import _thread
import threading
from concurrent.futures import ThreadPoolExecutor, thread
from types import SimpleNamespace
from typing import NoReturn

import pytest

from pytest_asyncframe._crashes.strand import unlisted
from pytest_asyncframe._turns import actors
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


def test_nobody_waits_for_a_thread_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool's thread that stops for ever is none that the interpreter waits for at its exit."""
    waited_for: list[bool] = []

    def stand() -> NoReturn:
        waited_for.append(worker in thread._threads_queues)
        # It ends all the same, unlike others.
        threading._active[_thread.get_ident()] = worker  # type: ignore[attr-defined]
        raise EOFError

    still = SimpleNamespace(acquire=stand)
    raw = SimpleNamespace(get_ident=_thread.get_ident, allocate_lock=lambda: still)
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(threading.current_thread).result(PATIENCE)
        assert worker in thread._threads_queues
        monkeypatch.setattr(actors, "_thread", raw)
        assert isinstance(pool.submit(actors.halt).exception(PATIENCE), EOFError)
    assert waited_for == [False]
