"""Unique and limited tasks of several managers that share a database, each like a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from framework import (
    DuplicateTaskError,
    RateLimitExceededError,
    TaskCancelledError,
    TaskManager,
    TaskStatus,
    async_task,
    background_task,
    get_task_manager,
    setup_async_framework,
    throttled_task,
)
from framework._manager.submitting import unique
from framework._records.records import TaskRecord
from framework.exceptions import StoreUnavailableError
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.site import Pace
from tests.framework.bodies import Held
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = Path(__file__).parents[1] / "apps" / "holding.py"


@asynccontextmanager
async def managers(url: str, count: int = 2) -> AsyncIterator[list[TaskManager]]:
    """Run managers that share a database."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            store = SQLStore(url)
            await stack.enter_async_context(setup_async_framework(None, store=store))
            made.append(get_task_manager())
        yield made


class Work:
    """A function of one key whose runs end when they are told to."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.running = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, name: str) -> str:
        """Wait until the run of that name may end."""
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        held = self.held.setdefault(name, Held())
        held()
        with self._lock:
            self.running -= 1
        return name

    def end(self, name: str) -> None:
        """Let a run end, also one that has not begun."""
        self.held.setdefault(name, Held()).go_on.set()


def one_key(_: str) -> str:
    """Return the one key that there is."""
    return "key"


async def test_a_thousand_submissions_give_one_task(sql_url: str) -> None:
    """All submissions of four processes at once get one id, and one function runs."""
    work = Work()
    task = background_task(unique=one_key)(work)
    async with managers(sql_url, 4) as four:
        ids = await asyncio.gather(
            *(manager.submit(task, ("a",)) for _ in range(250) for manager in four)
        )
        assert len(set(ids)) == 1
        work.end("a")
        ended = await asyncio.gather(
            *(manager.get_result(ids[0], timeout=PATIENCE) for manager in four)
        )
        assert set(ended) == {"a"}
        assert work.most == 1


async def test_a_duplicate_elsewhere_is_refused(sqlite_url: str) -> None:
    """With "raise" the error names the task of the other process, also on a thread."""
    work = Work()
    task = background_task(unique=one_key, on_duplicate="raise")(work)
    async with managers(sqlite_url) as (one, two):
        first = await one.submit(task, ("a",))
        for submission in (
            two.submit(task, ("b",)),
            asyncio.to_thread(two.submit_nowait, task, ("b",)),
        ):
            with pytest.raises(DuplicateTaskError) as caught:
                await submission
            assert caught.value.task_id == first
        work.end("a")
        assert await two.get_result(first, timeout=PATIENCE) == "a"


async def test_a_call_on_the_loop_finds_out_later(sqlite_url: str) -> None:
    """A call that cannot wait is accepted, and CANCELLED as a duplicate; it never runs."""
    work = Work()
    task = background_task(unique=one_key)(work)
    async with managers(sqlite_url) as (one, two):
        first = await one.submit(task, ("a",))
        second = two.submit_nowait(task, ("b",))
        assert two.submit_nowait(task, ("c",)) == second, "it is known here at once"
        with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
            await two.get_result(second, timeout=PATIENCE)
        found = await two.get_task(second)
        assert found is not None
        assert found.reason == f"a duplicate of task {first}"
        work.end("a")
        # This process has read how it ended, so the other one has given its place back.
        await two.get_result(first, timeout=PATIENCE)
        assert "b" not in work.held
        # The same call is accepted now.
        third = two.submit_nowait(task, ("d",))
        work.end("d")
        assert await two.get_result(third, timeout=PATIENCE) == "d"


async def test_a_task_of_another_process_is_replaced(sqlite_url: str) -> None:
    """The old task is cancelled in its process, and the new one starts when it has ended."""
    running: list[str] = []

    @background_task(unique=one_key, on_duplicate="replace")
    async def work(name: str) -> str:
        running.append(name)
        try:
            if name == "a":
                await asyncio.Event().wait()
            return f"{name} of {running}"
        finally:
            running.remove(name)

    async with managers(sqlite_url) as (one, two):
        first = await one.submit(work, ("a",))
        second = await two.submit(work, ("b",))
        assert await two.get_result(second, timeout=PATIENCE) == "b of ['b']"
        old = await two.get_task(first)
        assert old is not None
        assert old.status is TaskStatus.CANCELLED
        assert old.reason == f"it was replaced by task {second}"


async def test_a_task_that_is_not_written_yet_is_replaced(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process cancels its task although no other process could read the task yet."""

    @background_task(unique=one_key, on_duplicate="replace")
    async def work(name: str) -> str:
        if name == "a":
            await asyncio.Event().wait()
        return name

    async with managers(sql_url) as (one, two):
        store = one._core.ledger.shared
        assert isinstance(store, SQLStore)
        with monkeypatch.context() as patch:
            patch.setattr(store._writer.batches, "write", lambda: None)
            first = await one.submit(work, ("a",))
            second = await two.submit(work, ("b",))
            with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
                await one.get_result(first, timeout=PATIENCE)
            assert store.fetch([first]) == []
        assert await two.get_result(second, timeout=PATIENCE) == "b"
        old = await two.get_task(first)
        assert old is not None
        assert old.reason == f"it was replaced by task {second}"


async def test_a_thread_of_another_process_is_waited_for(sqlite_url: str) -> None:
    """The new task waits until the thread of the old one has returned, in its process."""
    work = Work()
    task = background_task(unique=one_key, on_duplicate="replace")(work)
    async with managers(sqlite_url) as (one, two):
        await one.submit(task, ("a",))
        second = await two.submit(task, ("b",))
        third = two.submit_nowait(task, ("c",))
        with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
            await two.get_result(second, timeout=PATIENCE)
        work.end("a")
        work.end("c")
        assert await two.get_result(third, timeout=PATIENCE) == "c"
        assert work.most == 1


async def test_places_are_given_over_processes(sql_url: str) -> None:
    """Of both processes' tasks as many run as may, and each gets its turn."""
    work = Work()
    task = background_task(max_running=2)(work)
    names = [str(number) for number in range(10)]
    async with managers(sql_url) as both:
        ids = [
            await manager.submit(task, (name,))
            for name, manager in zip(names, both * 5, strict=True)
        ]
        for name in names:
            work.end(name)
        ended = [await both[0].get_result(one, timeout=PATIENCE) for one in ids]
    assert ended == names
    assert work.most <= 2


async def test_awaited_tasks_of_two_processes_share_a_run(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Awaiting a unique task of another process gives its result."""
    runs, is_shared = [], asyncio.Event()

    @async_task(unique=True)
    async def load(number: int) -> list[int]:
        runs.append(number)
        async with asyncio.timeout(PATIENCE):
            await is_shared.wait()
        return [number]

    async def in_task(manager: TaskManager) -> list[int]:
        async def body() -> list[int]:
            return await load(7)

        result: list[int] = await manager.submit(body, wait=True)
        return result

    def spied(until_final: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*given: object) -> Any:
            is_shared.set()
            return until_final(*given)

        return spy

    async with managers(sqlite_url) as both:
        for manager in both:
            elsewhere = manager._core.others
            monkeypatch.setattr(elsewhere, "until_final", spied(elsewhere.until_final))
        assert await asyncio.gather(*map(in_task, both)) == [[7], [7]]
    assert runs == [7]


async def test_a_failing_database_refuses_and_loses_nothing(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for the answer gets an error in time; who does not is accepted when it works."""

    def fail(*_: object) -> None:
        raise OperationalError("", {}, Exception("gone"))

    async with managers(sqlite_url, 1) as (manager,):
        store = manager._core.ledger.shared
        assert isinstance(store, SQLStore)
        task, other = (background_task(unique=True)(fn) for fn in (abs, int))
        with monkeypatch.context() as patch:
            patch.setattr(unique, "_PATIENCE", 0.2)
            patch.setattr(store._writer.statements, "advance", fail)
            with pytest.raises(
                StoreUnavailableError,
                match=r"^no answer within 0\.2 s whether builtins\.abs has a task with the same "
                r"key already; nothing was submitted$",
            ):
                await manager.submit(task, (-1,))
            accepted = manager.submit_nowait(other)
            waiting = await manager.get_task(accepted)
            assert waiting is not None
            assert waiting.reason == "waits to hear whether another process has the same task"
        assert await manager.get_result(accepted, timeout=PATIENCE) == 0
        assert await manager.submit(task, (-1,), wait=True) == 1


@pytest.mark.parametrize("is_safe", [True, False])
async def test_whoever_gets_an_id_has_it_on_disk(
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_safe: bool,
) -> None:
    """With durable=True a second submission of a unique task waits for the disk as well."""
    asked: asyncio.Queue[Callable[[BaseException | None], None]] = asyncio.Queue()
    task = background_task(unique=True)(abs)
    async with setup_async_framework(None, store=SQLStore(sqlite_url, durable=True)):
        manager, loop = get_task_manager(), asyncio.get_running_loop()
        store: Any = manager._core.ledger.shared
        secure = store.secure

        def hold(record: TaskRecord, told: Callable[[BaseException | None], None]) -> None:
            secure(record, lambda _: loop.call_soon_threadsafe(asked.put_nowait, told))

        monkeypatch.setattr(store, "secure", hold)
        async with asyncio.timeout(PATIENCE):
            submissions, answers = [], []
            for submit in (manager.submit, manager.submit, on_a_thread(manager)):
                submissions.append(asyncio.ensure_future(submit(task.options(delay=9), (-1,))))
                answers.append(await asked.get())
            assert not any(one.done() for one in submissions)
            for told in answers:
                told(None if is_safe else StoreUnavailableError("the disk is full"))
            found = await asyncio.gather(*submissions, return_exceptions=True)
        if is_safe:
            assert len(set(found)) == 1
        else:
            assert [str(one) for one in found] == ["the disk is full"] * 3
            assert [one.message for one in caplog.records if one.levelname == "ERROR"] == []


def on_a_thread(manager: TaskManager) -> Callable[..., Any]:
    """Return `submit_nowait` of a manager, called on a thread."""
    submit: Any = manager.submit_nowait
    return partial(asyncio.to_thread, submit)


@contextmanager
def holding(url: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds a unique task."""
    made = subprocess.Popen(
        [sys.executable, str(PROGRAM), url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        yield made
    finally:
        made.kill()
        made.communicate()


@pytest.mark.extended("processes")
async def test_no_key_is_stuck_after_a_kill(sqlite_url: str) -> None:
    """The key of a task whose process is killed is free as soon as the others notice."""
    with holding(sqlite_url) as killed:
        assert killed.stdout is not None
        first = killed.stdout.readline().strip()
        store = SQLStore(sqlite_url)
        # Sooner than in earnest: the killed one beats ten times a second.
        store._pace = Pace(beat=0.25)
        async with setup_async_framework(None, store=store):
            manager = get_task_manager()
            alone = background_task(unique=lambda: "key")(_same_name)
            assert await manager.submit(alone) == first
            second = await manager.submit(alone, on_duplicate="replace")
            killed.kill()
            assert await manager.get_result(second, timeout=PATIENCE) == "ran"
            found = await manager.get_task(first)
            # It may have been killed before its record was written.
            assert found is None or found.status is TaskStatus.INTERRUPTED


def _same_name() -> str:
    return "ran"


_same_name.__module__, _same_name.__qualname__ = "held", "alone"


@contextmanager
def submitting(url: str, log: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Run four processes that submit the same unique task."""
    program = str(PROGRAM.with_name("submitting.py"))
    made = [
        subprocess.Popen(
            [sys.executable, program, url, str(log)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        yield made
    finally:
        for one in made:
            one.kill()
            one.communicate()


def tell(process: subprocess.Popen[str], how: str) -> None:
    """Let a process submit."""
    assert process.stdin is not None
    process.stdin.write(f"{how}\n")
    process.stdin.flush()


def words(process: subprocess.Popen[str]) -> list[str]:
    """Return the words of its next line."""
    assert process.stdout is not None
    return process.stdout.readline().split()


@pytest.mark.soak
@pytest.mark.parametrize("turn", range(10))
def test_a_thousand_submissions_of_four_processes(sql_url: str, tmp_path: Path, turn: int) -> None:
    """They give one task and one run; when its process is killed, the next one runs, once."""
    log = tmp_path / "log"
    os.mkfifo(log)
    with submitting(sql_url, log) as four, os.fdopen(os.open(log, os.O_RDWR)) as runs:
        for one in four:
            assert words(one) == ["ready"]
        for one in four:
            tell(one, "return 250")
        first = {task_id for one in four for task_id in words(one)}
        word, pid, task_id = runs.readline().split()
        assert (word, {task_id}) == ("start", first)
        (killed,) = (one for one in four if str(one.pid) == pid)
        survivors = [one for one in four if one is not killed]
        killed.kill()
        for one in survivors:
            tell(one, "replace 3")
        last = {task_id for one in survivors for task_id in words(one)}
        word, pid, task_id = runs.readline().split()
        assert task_id in last - first
        assert pid in {str(one.pid) for one in survivors}
        for one in survivors:
            tell(one, "return 250")
        assert {task_id for one in survivors for task_id in words(one)} == {task_id}


# -- throttles


async def test_a_rate_is_shared(sql_url: str) -> None:
    """The calls of two processes, on loops and threads, use one window."""

    @throttled_task(rate_limit=2, time_window=600)
    async def call() -> str:
        return "called"

    async with managers(sql_url) as (one, two):
        assert await one.submit(call, wait=True) == "called"
        assert await two.submit(call, wait=True) == "called"
        for manager in (one, two):
            with pytest.raises(RateLimitExceededError) as caught:
                await manager.submit(call, wait=True)
            assert 0 < caught.value.retry_after <= 600


async def test_a_window_may_be_of_the_process(sqlite_url: str) -> None:
    """With shared=False each process counts its own calls."""

    @throttled_task(rate_limit=1, time_window=600, shared=False)
    def call() -> str:
        return "called"

    async with managers(sqlite_url) as both:
        for manager in both:
            assert await manager.submit(call, wait=True) == "called"
            with pytest.raises(
                RateLimitExceededError,
                match=r"^.*\.call may be called 1 times in 600 s; try again in \d+\.\d{3} s, or "
                r"use when_limited='wait'$",
            ):
                await manager.submit(call, wait=True)


async def test_waiting_calls_come_in_turn(sqlite_url: str) -> None:
    """Calls of two processes wait until their time, and one that is cancelled gives it back."""

    @throttled_task(rate_limit=1, time_window=600, when_limited="wait")
    def call() -> str:
        return "called"

    async with managers(sqlite_url) as (one, two):
        assert await one.submit(call, wait=True) == "called"
        throttled = asyncio.Event()
        loop = asyncio.get_running_loop()
        two.subscribe(lambda _: loop.call_soon_threadsafe(throttled.set), kinds=["throttled"])
        waiting = await two.submit(call)
        async with asyncio.timeout(PATIENCE):
            await throttled.wait()
        found = await two.get_task(waiting)
        assert found is not None
        assert found.status is TaskStatus.RUNNING
        await two.cancel_task(waiting)
        with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
            await two.get_result(waiting, timeout=PATIENCE)


async def test_a_sync_call_on_a_loop_is_told_what_to_do(sqlite_url: str) -> None:
    """A sync function cannot ask the store on a loop's thread: the error says what helps."""

    @throttled_task(rate_limit=1)
    def call() -> None:
        """Do nothing."""

    async with managers(sqlite_url, 1):
        with pytest.raises(RuntimeError) as caught:
            call()
    assert str(caught.value) == (
        f"{call.__module__}.{call.__qualname__} is sync, and its calls are counted for all "  # type: ignore[attr-defined]
        "processes in the store, which cannot be asked on the thread of an event loop: make it "
        "async, call it in a task or a thread, or use throttled_task(shared=False)"
    )
