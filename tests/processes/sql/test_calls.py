"""The arguments of tasks that the SQL store keeps."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from framework import background_task, get_task_manager, setup_async_framework
from framework.protocols import CallStore, TaskRecord, decode_call
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE
from tests.processes.refusals import refusal
from tests.processes.sql.siblings import COMPLETED, FAILED, Peer, peers


def call_in(peer: Peer, task: TaskRecord) -> str | None:
    """Return what the row of a task has as its call."""
    call: str | None = peer.row(task).call
    return call


def test_call_is_kept_until_the_task_completed(sql_url: str) -> None:
    """A call is written with the first row, and dropped when its task is COMPLETED."""
    call = '[["grün \\\\"],{}]'
    kept = {}
    with peers(sql_url, 1, keep_arguments=100) as (peer,):
        for end in (COMPLETED, FAILED):
            peer.host.call = call
            task = peer.accept()
            peer.writer.batches.write()
            assert call_in(peer, task) == call
            peer.host.call = "not asked for again"
            peer.start(task)
            peer.writer.batches.write()
            assert call_in(peer, task) == call
            peer.end(task, end)
            peer.writer.batches.write()
            kept[end] = call_in(peer, task)

    assert kept == {COMPLETED: None, FAILED: call}


def test_call_of_a_quick_task_is_never_converted(sql_url: str) -> None:
    """A task that is COMPLETED before its first row is written costs no conversion."""
    with peers(sql_url, 1, keep_arguments=100) as (peer,):
        peer.host.call = "[[],{}]"
        task = peer.end(peer.accept())
        peer.host.call_of = pytest.fail  # type: ignore[method-assign, assignment]
        peer.writer.batches.write()

        assert call_in(peer, task) is None


@background_task
def wait_for_event(number: int, *more: Path, flag: bool = False) -> None:
    """Wait until the test goes on, and fail."""
    assert GATE.wait(PATIENCE)
    raise RuntimeError("told to fail")


GATE = threading.Event()


async def test_kept_call_is_read_back(sql_url: str) -> None:
    """The arguments of a running and of a failed task are those of the submission."""
    store = SQLStore(sql_url, durable=True)
    assert isinstance(store, CallStore)
    GATE.clear()
    async with setup_async_framework(None, store=store):
        manager = get_task_manager()
        task_id = await manager.submit(wait_for_event, (1, Path("a")), {"flag": True})
        text = store.fetch_call(task_id)
        GATE.set()
        with pytest.raises(RuntimeError, match=r"^told to fail$"):
            await manager.get_result(task_id)

        assert text is not None
        assert decode_call(wait_for_event, text) == ((1, Path("a")), {"flag": True})
        assert store.fetch_call(task_id) == text
        assert store.fetch_call("unknown") is None


@pytest.mark.parametrize(
    ("keep", "size", "why"),
    [
        (12, 10**12, r"^they take 20 bytes of JSON, and at most 12 are kept$"),
        (
            100,
            object(),
            (
                r"^argument 'number' of tests\.processes\.sql\.test_calls\.wait_for_event does "
                r"not fit: given a value of type object: Input should be a valid integer; "
                r"arguments are sent as JSON according to the annotations$"
            ),
        ),
    ],
)
async def test_reason_of_a_call_that_is_not_kept(
    sqlite_url: str, keep: int, size: Any, why: str
) -> None:
    """Whoever asks for arguments that were not kept is told why."""
    store = SQLStore(sqlite_url, durable=True, keep_arguments=keep)
    GATE.clear()
    async with setup_async_framework(None, store=store):
        task_id = await get_task_manager().submit(wait_for_event, (size,))
        with pytest.raises(ValueError, match=why):
            store.fetch_call(task_id)
        GATE.set()
        with pytest.raises(RuntimeError, match=r"^told to fail$"):
            await get_task_manager().get_result(task_id)


async def test_arguments_are_not_kept(sqlite_url: str) -> None:
    """With ``keep_arguments=False`` the database has no arguments."""
    store = SQLStore(sqlite_url, durable=True, keep_arguments=False)
    GATE.clear()
    async with setup_async_framework(None, store=store):
        manager = get_task_manager()
        task_id = await manager.submit(wait_for_event, (1,))
        assert store.fetch_call(task_id) is None
        GATE.set()
        with pytest.raises(RuntimeError, match=r"^told to fail$"):
            await manager.get_result(task_id)


def test_wrong_bound() -> None:
    """A bound that is no number of bytes is refused where the store is made."""
    values: tuple[Any, ...] = (-1, "64k")
    found = [refusal(partial(SQLStore, "sqlite:///x.db", keep_arguments=one)) for one in values]
    must = "keep_arguments must be a whole number of at least 0, not"
    assert found == [f"ValueError: {must} -1", f"TypeError: {must} '64k'"]
