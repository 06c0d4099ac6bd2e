"""Many threads at the store at once: every record is written, in its last state."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from framework._records.statuses import TaskStatus
from framework._tasks.live import copy_record
from framework.stores.sql import SQLStore, _backlog
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._writing import batches as _batches
from tests.patience import PATIENCE
from tests.processes.sql.siblings import (
    COMPLETED,
    FAILED,
    RUNNING,
    Host,
    TestClock,
    new_record,
    peers,
)

THREADS = 6
EACH = 300
QUICK = Pace(gather=0.0005, hurry=0.0001, look=0.002, beat=0.2)


def test_many_threads(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that begin and end on several threads are all final in the end, and told of once."""
    monkeypatch.setattr(_batches, "BATCH", 37)
    monkeypatch.setattr(_backlog, "SECURE_PATIENCE", PATIENCE)
    clock = TestClock()
    store, told, lock = SQLStore(sql_url), Counter[str](), threading.Lock()
    store._pace = QUICK
    store.open(Host(clock))

    def work(number: int) -> None:
        for step in range(EACH):
            record = new_record(clock)
            store.note(record)
            record.status, record.started = RUNNING, clock.monotonic()
            store.note(record)
            if step % 3 == 0:

                def tell(error: BaseException | None, task_id: str = record.task_id) -> None:
                    assert error is None
                    with lock:
                        told[task_id] += 1

                store.secure(record, tell)
            record.ended, record.result = clock.monotonic(), step
            record.status = COMPLETED if step % 5 else FAILED
            if step % 5 == 0:
                record.error = LookupError(number)
            store.put(record)
            if step % 7 == 0:
                store.note(record)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    figures = store.figures()
    store.close(10.0)

    assert set(told.values()) == {1}
    assert told.total() == THREADS * EACH / 3
    assert figures["failed"] == THREADS * EACH / 5
    with peers(sql_url, 1) as (peer,):
        assert {status: count for status, count in peer.mirror.figures().items() if count} == {
            "completed": THREADS * EACH * 4 / 5,
            "failed": THREADS * EACH / 5,
        }


def test_two_processes_see_the_same(sql_url: str) -> None:
    """Two stores that write at once end with the same tasks, each once."""
    clocks = [TestClock(), TestClock()]
    stores = [SQLStore(sql_url), SQLStore(sql_url)]
    for store, clock in zip(stores, clocks, strict=True):
        store._pace = QUICK
        store.open(Host(clock))

    def work(store: SQLStore, clock: TestClock) -> None:
        for _ in range(EACH):
            record = new_record(clock)
            store.note(record)
            done = copy_record(record)
            done.status, done.ended = TaskStatus.COMPLETED, clock.monotonic()
            store.put(done)

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(stores, clocks, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = threading.Barrier(3)

    def meet(_: BaseException | None) -> None:
        written.wait(PATIENCE)

    for store, clock in zip(stores, clocks, strict=True):
        last = new_record(clock)
        store.secure(last, meet)
    written.wait(PATIENCE)
    for store in stores:
        store._writer.close(10.0)
        store._writer.follower.look()
    ids = [{record.task_id for record in store.list(COMPLETED)} for store in stores]
    counts = [store.figures()["completed"] for store in stores]
    for store in stores:
        store.close(1.0)

    assert ids[0] == ids[1]
    assert counts == [2 * EACH, 2 * EACH]
