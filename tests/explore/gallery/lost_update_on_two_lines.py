"""A counter is read on one line and written on the next: an update is lost in between."""

from __future__ import annotations

import threading

import pytest

from framework import background_task
from pytest_asyncframe.probe import Probe


class Page:
    """A page that counts its visits."""

    def __init__(self) -> None:
        self.visits = 0
        self.lock = threading.Lock()


@background_task
def racy_visit(page: Page) -> None:
    """Count a visit."""
    before = page.visits
    page.visits = before + 1


@background_task
def correct_visit(page: Page) -> None:
    """Count a visit with a lock around read and write."""
    with page.lock:
        before = page.visits
        page.visits = before + 1


@pytest.mark.interleave(level="line")
def test_racy(asyncframe: Probe) -> None:
    """Two visits are counted as two."""
    page = Page()
    racy_visit(page)
    racy_visit(page)
    asyncframe.run_until_idle()
    assert page.visits == 2


@pytest.mark.interleave(level="line")
def test_correct(asyncframe: Probe) -> None:
    """Two visits are counted as two."""
    page = Page()
    correct_visit(page)
    correct_visit(page)
    asyncframe.run_until_idle()
    assert page.visits == 2
