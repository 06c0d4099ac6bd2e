"""Your own store: finished tasks in a JSON Lines file, for one process."""

import asyncio
import json
import math
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from framework import TaskStatus, background_task, get_task_manager, setup_async_framework
from framework.exceptions import StoreUnavailableError
from framework.protocols import (
    SharedDirectory,
    SharedStore,
    StoreHost,
    TaskRecord,
    decode_result,
    dump_record,
    encode_result,
    find_function,
    load_record,
)


class JsonLinesStore(SharedStore, SharedDirectory):
    """Keeps tasks in memory, and in a file with one line for each change.

    Args:
        path: The file; it is created when the store is opened.
        durable: Whether a submission returns only when its line is on disk.
    """

    def __init__(self, path: Path, durable: bool = False) -> None:
        self.path = path
        self.durable = durable
        self._records: dict[str, TaskRecord] = {}
        self._live: set[str] = set()
        self._lock = threading.Lock()
        self._file = -1

    # -- opening and closing

    def open(self, host: StoreHost) -> None:
        """Read the file, rewrite it without removed tasks, and start to append."""
        self._host = host
        self._live = set()
        try:
            found = self._read()
            self._records = {key: load_record(facts, host.clock) for key, facts in found.items()}
            fresh = self.path.with_suffix(".new")
            with fresh.open("w") as file:
                file.writelines(f"{json.dumps(facts)}\n" for facts in found.values())
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        except (OSError, ValueError, KeyError) as error:
            raise StoreUnavailableError(f"{self.path} cannot be used: {error!r}") from error

    def _read(self) -> dict[str, dict[str, Any]]:
        """Return the facts of each task in the file, in the order in which they ended."""
        found: dict[str, dict[str, Any]] = {}
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        for line in lines:
            if not line.endswith("\n"):
                break  # the process died in the middle of this line
            change = json.loads(line)
            for task_id in change.get("removed", [change.get("task_id")]):
                found.pop(task_id, None)
            if "task_id" in change:
                found[change["task_id"]] = change
        for facts in found.values():
            if not TaskStatus(facts["status"]).is_final:
                # It had not ended when the process died.
                facts |= {
                    "status": "interrupted",
                    "ended_at": facts["created_at"],
                    "reason": "its process died",
                }
        return found

    def close(self, patience: float) -> None:
        """Write all lines to the disk, and close the file."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
        self._file = -1

    # -- changes

    def note(self, record: TaskRecord) -> None:
        """Write a new task to the file, so that it is not forgotten if the process dies."""
        if record.task_id in self._live:
            return
        try:
            self._append(dump_record(self._host.snapshot(record)))
        except OSError as error:
            raise StoreUnavailableError(f"{self.path} cannot be written: {error}") from error
        self._live.add(record.task_id)

    def put(self, record: TaskRecord) -> None:
        """Keep the record of a task that has just ended."""
        self._records[record.task_id] = record
        self._live.discard(record.task_id)
        self._append(dump_record(record))

    def secure(self, record: TaskRecord, told: Callable[[BaseException | None], None]) -> None:
        """Write the file to the disk, and call *told*."""
        try:
            os.fsync(self._file)
        except OSError as error:
            told(StoreUnavailableError(f"{self.path} cannot be written: {error}"))
        else:
            told(None)

    def settle(self, record: TaskRecord, result: Any) -> Any:
        """Return a result as it will be read from the file."""
        function = find_function(record.name)
        return decode_result(function, encode_result(function, result))

    def _append(self, change: dict[str, Any]) -> None:
        """Write one complete line, or nothing."""
        line = f"{json.dumps(change)}\n".encode()
        with self._lock:
            size = os.fstat(self._file).st_size
            written = os.write(self._file, line)
            if written < len(line):
                os.ftruncate(self._file, size)
                raise OSError(f"only {written} of {len(line)} bytes fit")

    # -- questions of the framework

    def get(self, task_id: str) -> TaskRecord | None:
        """Return the record of a finished task."""
        return self._records.get(task_id)

    def list(self, status: TaskStatus | None = None) -> list[TaskRecord]:
        """Return the records in the order in which the tasks ended."""
        found = list(self._records.values())
        return [record for record in found if status is None or record.status is status]

    def remove(
        self,
        *,
        ended_before: float | None = None,
        keep: int | None = None,
        completed: bool = True,
    ) -> tuple[int, Sequence[TaskRecord]]:
        """Remove the oldest records, in the file too."""
        records = list(self._records.values())
        surplus = 0 if keep is None else len(records) - keep
        bound = -math.inf if ended_before is None else ended_before
        removed: list[TaskRecord] = []
        for record in records:
            if len(removed) >= surplus and (record.ended is None or record.ended > bound):
                break
            removed.append(record)
            self._records.pop(record.task_id, None)
        if removed:
            with suppress(OSError):  # then they return after a restart, and are removed again
                self._append({"removed": [record.task_id for record in removed]})
        return len(removed), removed

    def figures(self) -> dict[str, int]:
        """Return the number of records of each status."""
        return Counter(record.status.value for record in self.list())

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the records of some ids; no other process has more."""
        return [self._records[one] for one in task_ids if one in self._records]

    def request_cancel(self, task_id: str) -> bool:
        """Return False: there is no other process that could cancel the task."""
        return False

    def is_alone(self) -> bool:
        """Return True: no other process writes, so an unknown id is unknown immediately."""
        return True

    def doubt(self) -> Exception | None:
        """Return None: no task of another process can be missing."""
        return None


# -- tests


@background_task
def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


@background_task
def fail() -> None:
    """Fail."""
    raise KeyError("order-7")


async def one_process(path: Path, *submit: Callable[[], str]) -> dict[str, dict[str, Any]]:
    """Run an app that submits some tasks, and return its tasks at the end."""
    async with setup_async_framework(None, store=JsonLinesStore(path)):
        manager = get_task_manager()
        ids = [call() for call in submit]
        await asyncio.gather(*map(manager.get_result, ids), return_exceptions=True)
        return manager.get_all_tasks()


async def test_history_survives_a_restart() -> None:
    """The next process has the results and errors of the previous one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.jsonl"
        (done,) = (await one_process(path, lambda: add(1, 2))).values()
        await one_process(path, fail)
        first, second = (await one_process(path)).values()
        assert (first["task_id"], first["result"]) == (done["task_id"], 3)
        assert (second["status"], second["error_type"]) == ("failed", "KeyError")


async def test_a_torn_line_is_left_out() -> None:
    """If a process dies in the middle of a line, the lines before it are kept."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.jsonl"
        (done,) = await one_process(path, lambda: add(1, 2))
        with path.open("a") as file:
            file.write('{"task_id": "torn", "name": "add", "sta')
        assert list(await one_process(path)) == [done]
        assert path.read_text().endswith("}\n")


async def test_a_task_whose_process_died_is_interrupted() -> None:
    """A task that had not ended when its process died is INTERRUPTED in the next one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.jsonl"
        path.write_text('{"task_id": "7", "name": "add", "status": "pending", "created_at": 1.0}\n')
        (task,) = (await one_process(path)).values()
        assert (task["status"], task["reason"]) == ("interrupted", "its process died")


async def test_what_was_removed_stays_away() -> None:
    """A removed task does not come back after a restart, and is removed from the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.jsonl"
        async with setup_async_framework(None, store=JsonLinesStore(path)):
            manager = get_task_manager()
            await manager.get_result(add(1, 2))
            assert manager.cleanup_completed_tasks(max_age=0) == 1
        assert await one_process(path) == {}
        assert path.read_text() == ""


async def test_a_line_that_is_no_json() -> None:
    """An app does not start if the file has the wrong format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.jsonl"
        path.write_text("no JSON\n")
        with pytest.raises(
            StoreUnavailableError, match=r"tasks\.jsonl cannot be used: JSONDecodeError\("
        ):
            await one_process(path)
        assert path.read_text() == "no JSON\n"
