"""Processes one after the other: a new release after an old one, and a start after a kill."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from framework import background_task, get_task_manager, setup_async_framework
from framework._records.ids import random_id
from framework._threads.watch import processes
from framework.exceptions import StoreUnavailableError
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects import dialect as _dialect
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._shared import membership, opening
from framework.stores.sql._shared.membership import MISSED
from framework.stores.sql._shared.opening import Predecessors
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import PROCESSES, STEPS
from tests.children import ROOT, run
from tests.patience import PATIENCE
from tests.processes.sql.siblings import TestClock, peers
from tests.processes.sql.test_faults import heard, locked

NEWER = (*STEPS, ("ALTER TABLE asyncframe_tasks ADD COLUMN further TEXT",))
"""The tables of the next release."""

QUICK = Pace(pause_min=0.001, pause_max=0.01)


@pytest.fixture
def newer(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Predecessors]:
    """What a process of the next release asks at its start, a second after the other."""
    monkeypatch.setattr(opening, "STEPS", NEWER)
    with closing(Database(checked_url(sql_url), False)) as database:
        yield Predecessors(database, TestClock(), patience=30.0)


def asked(older: Predecessors, seconds: int) -> list[bool]:
    """Ask once a second whether the tables are upgraded."""
    clock: Any = older._clock
    told = []
    for _ in range(seconds):
        told.append(older.let_upgrade())
        clock.pass_time(1.0)
    return told


def test_a_new_release_waits_for_the_old_one(
    sql_url: str, newer: Predecessors, caplog: pytest.LogCaptureFixture
) -> None:
    """While a process of the old release lives, a new one waits, says so once, and gives up."""
    me = f"{socket.gethostname()} (pid {os.getpid()})"
    clock: Any = newer._clock
    with peers(sql_url, 1) as (old,):
        for _ in range(3):
            assert asked(newer, MISSED) == [False] * MISSED
            old.tick()
        clock.pass_time(12.0)
        with pytest.raises(
            StoreUnavailableError,
            match=rf"^the tables of this database have version {len(STEPS)}, and processes of the "
            rf"release that made them are still running: {re.escape(me)}; this "
            rf"release needs version {len(NEWER)}: stop them, then start this process again$",
        ):
            newer.let_upgrade()
        task = old.accept()
        assert old.writer.attempt()
        assert old.row(task).status == "pending"
        with old.database.writing() as connection:
            old.writer.membership.leave(connection)
        assert newer.let_upgrade()
        assert newer.let_upgrade()
    (told,) = caplog.messages
    assert told == (
        "the tables of the store are of an older release, whose processes may still be running: "
        f"{me}; this process starts when they have ended, or gives up after 30 s"
    )


def test_an_old_process_that_stood_still(
    sql_url: str, newer: Predecessors, caplog: pytest.LogCaptureFixture
) -> None:
    """One that gives no sign of life is not waited for, and writes nothing when it continues."""
    with peers(sql_url, 1, pace=QUICK) as (old,):
        task, given_up = old.accept(), old.process_id
        assert asked(newer, MISSED + 1)[-2:] == [False, True]
        assert [old.writer.attempt() for _ in range(3)] == [False] * 3

        assert old.row(task) is None
        assert len(old.host.interrupted) == 1
        assert old.backlog.fault == (
            f"the tables of this database have version {len(NEWER)}, but this release supports "
            f"{len(STEPS)}: use the release that created them, or a newer one"
        )
        with old.database.reading() as connection:
            assert connection.execute(sa.select(PROCESSES)).all() == []
    assert [one.split(" ")[0] for one in caplog.messages] == ["the", "process", "this", "the"]
    assert caplog.messages[1].startswith(f"process {given_up} is not responding")


def test_a_database_that_cannot_be_written_proves_nothing(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a new process cannot write either, an old one that gives no sign is not dead."""
    monkeypatch.setattr(_dialect, "LOCK_PATIENCE", 0.001)
    monkeypatch.setattr(opening, "STEPS", NEWER)
    with peers(sqlite_url, 2) as (old, new):
        older = Predecessors(new.database, new.clock)
        with old.database.writing() as connection:
            connection.execute(sa.delete(PROCESSES).where(PROCESSES.c.process_id != old.process_id))
        assert asked(older, MISSED) == [False] * MISSED
        with (
            locked(sqlite_url),
            pytest.raises(sa.exc.OperationalError, match=r"^\(.+\) database is locked"),
        ):
            older.let_upgrade()
        assert asked(older, MISSED + 1)[-2:] == [False, True]


@background_task(on_restart="requeue", name="tests.deployed")
def deployed(number: int) -> int:
    """Run in the new release."""
    return number


OLD = """
import asyncio, sys, threading
from framework import background_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore

end = threading.Event()

@background_task(on_restart="requeue", idempotent=True, name="tests.deployed")
def deployed(number: int) -> int:
    end.wait()
    return -1

async def main():
    store = SQLStore(sys.argv[1], durable=True)
    async with setup_async_framework(
        None, store=store, max_workers=1, graceful_shutdown_timeout=0.01
    ):
        print(*[await get_task_manager().submit(deployed, (n,)) for n in range(9)], flush=True)
        await asyncio.to_thread(sys.stdin.read)
    end.set()

asyncio.run(main())
"""
"""A process of the old release, with tasks that it does not get done before its input ends."""


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start another process."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.extended("processes")
async def test_a_rolling_deploy_loses_nothing(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that wait when the old release ends run in the new one, which has waited for it."""
    old = started(OLD, sql_url)
    stdin, stdout = old.stdin, old.stdout
    assert stdin is not None
    assert stdout is not None
    with old, heard("whose processes may still be running") as said:
        task_ids = (await asyncio.to_thread(stdout.readline)).split()
        monkeypatch.setattr(opening, "STEPS", NEWER)
        monkeypatch.setattr(membership, "STEPS", NEWER)

        def end_the_old() -> None:
            assert said.wait(PATIENCE)
            stdin.close()

        ending = asyncio.create_task(asyncio.to_thread(end_the_old))
        async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
            await ending
            manager = get_task_manager()
            results = [await manager.get_result(one, timeout=PATIENCE) for one in task_ids]
    assert results == list(range(9))


@pytest.mark.extended("processes")
async def test_what_was_killed_here_is_dead_at_once(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that is started again goes on with its tasks, however many beats may be missed."""
    monkeypatch.setattr(membership, "MISSED", 1_000_000)
    store = SQLStore(sqlite_url, durable=True)
    store._pace = Pace(beat=0.05)
    with started(OLD, sqlite_url) as old:
        assert old.stdout is not None
        task_ids = (await asyncio.to_thread(old.stdout.readline)).split()
        old.kill()
    async with setup_async_framework(None, store=store):
        manager = get_task_manager()
        results = [await manager.get_result(one, timeout=PATIENCE) for one in task_ids]
    assert results == list(range(9))


LOOK = """
import sys
from framework._threads.watch import processes
if len(sys.argv) > 1:
    print(processes.has_ended(sys.argv[1], int(sys.argv[2])))
else:
    print(processes.process_id(), flush=True)
    input()
"""


@pytest.mark.extended("processes")
def test_only_what_can_be_seen_has_ended() -> None:
    """A process that runs, or runs elsewhere, has not ended; one that has is known by its start."""

    def look(process_id: str, pid: int, *before: str) -> str:
        return run(*before, sys.executable, "-c", LOOK, process_id, str(pid), cwd=ROOT).stdout

    with started(LOOK) as other:
        assert other.stdout is not None
        process_id = other.stdout.readline().strip()
        elsewhere = process_id[:20] + "0" * 12 + process_id[32:]
        assert not processes.has_ended(process_id, other.pid)
        assert processes.has_ended(process_id, os.getpid()), "another one has its number"
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert processes.has_ended(process_id, other.pid), "nobody has waited for it"
    assert processes.has_ended(process_id, other.pid)
    assert not processes.has_ended(elsewhere, other.pid)
    assert not processes.has_ended(random_id(), other.pid), "of an older release"
    if os.geteuid() == 0:
        spaces = [("unshare", "--pid", "--fork"), ("unshare", "--pid", "--fork", "--mount-proc")]
        assert [look(process_id, other.pid, *one) for one in spaces] == ["False\n"] * 2
    assert look(process_id, other.pid) == "True\n"
