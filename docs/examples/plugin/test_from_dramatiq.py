"""Tests that used StubBroker before."""

from __future__ import annotations

import pytest

from framework import TaskTimeoutError, background_task, get_task_manager, retry_task
from pytest_asyncframe.probe import Probe

counted: list[str] = []


@background_task(timeout=3600)
@retry_task(max_retries=3, retry_delay=15, backoff=2)
def count_words(url: str) -> int:
    """Count the words of a page."""
    words = fetch(url).split()
    counted.append(url)
    return len(words)


def fetch(url: str) -> str:
    """Return the text of a page."""
    return "three little words"


@background_task(timeout=10)
def crawl() -> None:
    """Run longer than the time limit."""
    get_task_manager().clock.sleep(60)


def test_count_words(asyncframe: Probe) -> None:
    """Wait for the task, instead of joining the broker and its worker."""
    task = asyncframe.run_until_complete(count_words("http://example.org"))

    assert task.result == 3
    assert counted == ["http://example.org"]


def test_the_page_is_away(asyncframe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a task raises its error after all retries, which take no real time."""

    def fail(url: str) -> str:
        raise ConnectionError("away")

    monkeypatch.setattr(f"{__name__}.fetch", fail)
    with pytest.raises(ConnectionError, match=r"^away$"):
        asyncframe.run_until_complete(count_words("http://example.org"))

    assert asyncframe.delays(count_words) == [15.0, 30.0, 60.0]


def test_a_limit(asyncframe: Probe) -> None:
    """Time limits are enforced in tests too."""
    with pytest.raises(TaskTimeoutError):
        asyncframe.run_until_complete(crawl())

    assert asyncframe.clock.monotonic() == 10
