"""An override that is made when something first uses a framework."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from fastapi import FastAPI

from framework import (
    FrameworkNotStartedError,
    TaskManager,
    background_task,
    get_task_manager,
    get_thread_pool,
    setup_async_framework,
    throttled_task,
)
from framework.testing import override_framework, override_when_used
from tests.patience import PATIENCE

NOT_STARTED = r"^no task framework is running here: add it to the app .* of the pytest plugin$"
ALREADY = (
    r"^override_framework\(\) is already active, and a test has one framework: leave the first "
    r"override before the next one, or replace it with override_framework\(nested=True\)$"
)


class Overrides:
    """Makes overrides, and keeps what has happened to them."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.manager: TaskManager | None = None

    @contextmanager
    def make(self) -> Iterator[TaskManager]:
        """Override the framework inside the block."""
        self.seen.append("made")
        with override_framework() as manager:
            self.manager = manager
            yield manager
        self.seen.append("left")


def use_app() -> None:
    """Set up an app; its framework is made when it starts."""
    setup_async_framework(FastAPI())


@throttled_task(rate_limit=1, time_window=60)
def limited() -> None:
    """Do nothing, once a minute."""


@background_task
def submitted() -> None:
    """Do nothing."""


def test_nothing_uses_it() -> None:
    """Nothing is made for a block that uses no framework."""
    overrides = Overrides()
    with override_when_used(overrides.make):
        use_app()

    assert overrides.seen == []


def test_first_use() -> None:
    """Whatever first needs a framework makes it, once, and it ends with the block."""
    uses: list[Callable[[], object]] = [get_task_manager, get_thread_pool, limited, submitted]
    for use in uses:
        overrides = Overrides()
        with override_when_used(overrides.make):
            use()
            assert overrides.seen == ["made"], use
            assert get_task_manager() is overrides.manager, use

        assert overrides.seen == ["made", "left"], use
        with pytest.raises(FrameworkNotStartedError, match=NOT_STARTED):
            get_task_manager()


async def test_app_that_starts() -> None:
    """An app that starts inside the block uses the override, not a framework of its own."""
    overrides, app = Overrides(), FastAPI()
    with override_when_used(overrides.make):
        async with setup_async_framework(app):
            assert app.state.task_manager is overrides.manager


async def test_app_that_has_started_before() -> None:
    """Inside the block the framework of an app that runs already is not current."""
    overrides, app = Overrides(), FastAPI()
    async with setup_async_framework(app):
        own = get_task_manager()
        with override_when_used(overrides.make):
            assert get_task_manager() is overrides.manager
        assert get_task_manager() is own


def test_asked_for() -> None:
    """Who wants it before anything uses it can have it made."""
    overrides = Overrides()
    with override_when_used(overrides.make) as make:
        make()
        make()

        assert overrides.seen == ["made"]


def test_two_threads() -> None:
    """Threads that use it while another one makes it wait, and get the same."""
    began, go_on = threading.Event(), threading.Event()
    overrides, found = Overrides(), []

    @contextmanager
    def slowly() -> Iterator[TaskManager]:
        began.set()
        assert go_on.wait(PATIENCE)
        with overrides.make() as manager:
            yield manager

    def use() -> None:
        found.append(get_task_manager())

    with override_when_used(slowly):
        threads = [threading.Thread(target=use) for _ in range(2)]
        threads[0].start()
        assert began.wait(PATIENCE)
        threads[1].start()
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE)

    assert found == [overrides.manager, overrides.manager]


def test_second_override() -> None:
    """Inside the block a second override is refused, also before the first one is made."""
    enters: list[Callable[[], AbstractContextManager[object]]] = [
        override_framework,
        lambda: override_when_used(Overrides().make),
    ]
    for enter in enters:
        overrides = Overrides()
        with override_when_used(overrides.make):
            with pytest.raises(RuntimeError, match=ALREADY), enter():
                pass

            assert overrides.seen == []


def test_nested_override() -> None:
    """A nested override replaces it for a while."""
    overrides = Overrides()
    with override_when_used(overrides.make):
        with override_framework(nested=True) as inner:
            assert get_task_manager() is inner
        assert get_task_manager() is overrides.manager


def test_kept_beyond_the_block() -> None:
    """After the block nothing is made any more."""
    overrides = Overrides()
    with override_when_used(overrides.make) as make:
        pass
    make()

    assert overrides.seen == []


def test_one_that_cannot_be_made() -> None:
    """Whoever first uses it gets the error; after that there is no framework."""

    def broken() -> AbstractContextManager[TaskManager]:
        raise LookupError("no pool")

    with override_when_used(broken):
        with pytest.raises(LookupError, match=r"^no pool$"):
            get_task_manager()
        with pytest.raises(FrameworkNotStartedError, match=NOT_STARTED):
            get_task_manager()
