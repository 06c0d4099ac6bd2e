"""What a logging handler raises is printed, and ends neither a thread nor a loop."""

from __future__ import annotations

import inspect
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.thread import BrokenThreadPool

import pytest

from framework import (
    Task,
    TaskManager,
    ThreadPoolExecutorEnhanced,
    background_task,
    setup_async_framework,
)
from framework._threads.loggers import SafeLogger
from framework.protocols import TaskEvent
from tests.framework.kinds import Body, fail_with, in_thread, on_loop, reached
from tests.patience import PATIENCE

NAMES = ("asyncframe", "concurrent.futures")


AWAITED = ("a hook of task", "an event sink raised", "unfinished at shutdown")
"""Beginnings of lines for which tests wait."""


class Broken(logging.Handler):
    """A handler that is written without a thought of errors."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.said = {text: threading.Event() for text in AWAITED}

    def handle(self, record: logging.LogRecord) -> bool:
        """Raise in place of `emit`, which would do so through `handleError`."""
        line = record.getMessage()
        self.lines.append(line)
        for text, event in self.said.items():
            if line.startswith(text):
                event.set()
        raise OSError("the disk is full")


@pytest.fixture
def broken() -> Iterator[Broken]:
    """Let each line of the framework's log raise, at any level."""
    handler = Broken()
    before = {name: logging.getLogger(name).level for name in NAMES}
    for name in NAMES:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield handler
    for name in NAMES:
        logging.getLogger(name).removeHandler(handler)
        logging.getLogger(name).setLevel(before[name])


def closed() -> io.StringIO:
    """Return a closed stream, as stderr is once its reader has gone."""
    stream = io.StringIO()
    stream.close()
    return stream


def test_an_error_is_printed(broken: Broken, capsys: pytest.CaptureFixture[str]) -> None:
    """The error of the handler is printed with its traceback, for each line."""
    SafeLogger("asyncframe").warning("it %s", "rains")
    assert broken.lines == ["it rains"]
    assert capsys.readouterr().err.rstrip().endswith("OSError: the disk is full")


@pytest.mark.parametrize("stderr", [None, closed()], ids=["none", "closed"])
def test_nothing_is_raised_where_nothing_can_be_printed(
    broken: Broken, monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO | None
) -> None:
    """Without a stderr, or with a closed one, the error of the handler is dropped."""
    monkeypatch.setattr(sys, "stderr", stderr)
    SafeLogger("asyncframe").exception("it rains")
    assert broken.lines == ["it rains"]


def test_a_line_has_the_place_of_its_caller(caplog: pytest.LogCaptureFixture) -> None:
    """A record names the function that logged, and with a stacklevel the one that called it."""
    logger = SafeLogger("asyncframe")

    def told() -> None:
        logger.warning("here", extra={"weather": "rain"})
        logger.warning("there", stacklevel=2)

    told()
    assert [one.funcName for one in caplog.records] == [
        "told",
        inspect.stack()[0].function,
    ]
    assert vars(caplog.records[0])["weather"] == "rain"


def test_a_pool_says_why_it_is_broken(broken: Broken) -> None:
    """Who waits for a pool whose initializer fails is told, and waits no longer."""
    begin = fail_with(RuntimeError("no disk"))
    with (
        ThreadPoolExecutorEnhanced(1, initializer=begin) as pool,
        pytest.raises(BrokenThreadPool, match=r"^A thread initializer failed"),
    ):
        pool.submit(int).result(PATIENCE)
    assert broken.lines == ["Exception in initializer:"]


@pytest.mark.asyncframe(lost_failures="off", leaks="off")
@pytest.mark.parametrize("make", [in_thread, on_loop])
async def test_tasks_end_as_they_would(
    task_manager: TaskManager, broken: Broken, make: Callable[[Body], Body]
) -> None:
    """Tasks, hooks and sinks that fail, and tasks cut short at the end, have their final states."""

    def hear(_: TaskEvent) -> None:
        raise LookupError("no such metric")

    def tell(_: Task) -> None:
        raise LookupError("nobody to tell")

    def hang() -> None:
        began.set()
        gate.wait(PATIENCE)

    failing = background_task(on_error=tell)(make(fail_with(RuntimeError("no mail"))))
    fine = background_task(make(int))
    began, gate = threading.Event(), threading.Event()
    try:
        async with setup_async_framework(graceful_shutdown_timeout=0.0):
            task_manager.subscribe(hear, kinds={"completed"})
            ids = [failing(), fine(), await task_manager.submit(hang)]
            for line in "a hook of task", "an event sink raised":
                await reached(broken.said[line])
            await reached(began)
        tasks = [task_manager.get_all_tasks()[task_id] for task_id in ids]
    finally:
        gate.set()

    assert [task["status"] for task in tasks] == ["failed", "completed", "interrupted"]
    assert broken.said["unfinished at shutdown"].is_set()
