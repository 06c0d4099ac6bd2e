"""Turns in which new tasks are written, and what others do while somebody waits for one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from framework.stores.sql._shared.membership import GivenUpError
from framework.stores.sql._tables import free_rows
from framework.stores.sql._tables.schema import PROCESSES, TASKS
from tests.patience import PATIENCE
from tests.processes.sql.siblings import Peer, peers
from tests.processes.sql.test_processes import WAITERS
from tests.processes.work.test_calls import called, crowd, submit
from tests.processes.work.test_claims import ids, offer


def numbers(peer: Peer) -> tuple[int, int]:
    """Return how many free tasks there are: as it is kept, and by a count of all rows."""
    rows = sa.select(sa.func.count()).select_from(TASKS).where(free_rows.IS_FREE)
    with peer.database.reading() as connection:
        kept = connection.execute(free_rows.KEPT).scalar_one()
        return kept, connection.execute(rows).scalar_one()


@contextmanager
def in_the_turn_before(web: Peer, other: Peer) -> Iterator[Connection]:
    """Yield the transaction of *other*'s turn, for which *web* waits to write what it has."""
    with ThreadPoolExecutor() as pool:
        with other.writer._site.turn() as (connection, *_):
            writes = pool.submit(web.writer.batches.write)
            while not connection.execute(sa.text(WAITERS)).scalar_one():
                assert not writes.done()
            yield connection
        writes.result(PATIENCE)


@pytest.mark.parametrize("places", [0, 4])
def test_new_tasks_are_written_with_the_turn(sql_url: str, places: int) -> None:
    """What is new is free, what is there under its id stays, and the number of free tasks holds.

    With and without a transaction around it: a process without places needs none.
    """
    with peers(sql_url) as (web, other):
        web.host.places = places
        theirs, (mine, *_) = other.accept(task_id="theirs"), ids([offer(web), offer(web, 2)])
        for peer in (web, other):
            peer.writer.batches.write()
        assert numbers(web) == (2, 2)
        again = [offer(web, task_id=task_id) for task_id in ("theirs", mine)]
        fresh = [offer(web, number) for number in range(3)]
        web.writer.batches.write()

        assert {web.row(one).process for one in fresh} == {""}
        assert len({web.row(one).version for one in fresh}) == 1
        assert web.row(theirs).process == other.process_id
        assert web.row(again[1]).version < web.row(fresh[0]).version
        assert numbers(web) == (5, 5)
        assert not len(web.backlog)


def test_who_waited_is_claimed_meanwhile(postgres_url: str) -> None:
    """A process is called for a task before which others waited when it waited for its turn."""
    with crowd(postgres_url, [1]) as (web, (worker,)):
        submit(web)
        assert called([worker]) == [0]
        worker.link.answers()
        task = offer(web)
        with in_the_turn_before(web, worker) as connection:
            connection.execute(sa.update(TASKS).values(process=worker.process_id))
            free_rows.add(connection, -1)

        assert web.row(task).process == ""
        assert called([worker]) == [0]
        assert numbers(web) == (1, 1)


def test_given_up_while_it_waits_to_offer(postgres_url: str) -> None:
    """A task is free once, though its process is given up just before its row is written."""
    with crowd(postgres_url, [1]) as (web, (worker,)):
        task = offer(web)
        with in_the_turn_before(web, worker) as connection:
            its = PROCESSES.c.process_id == web.process_id
            connection.execute(sa.delete(PROCESSES).where(its))
        assert web.row(task).process == ""
        later = offer(web)
        with pytest.raises(GivenUpError, match=r"^$"):
            web.writer.batches.write()
        assert web.row(later) is None
        assert web.writer.attempt(), "it comes back"
        assert web.writer.attempt()

        assert {web.row(one).process for one in (task, later)} == {""}
        assert numbers(web) == (2, 2)


@pytest.mark.parametrize("places", [0, 4])
def test_an_outage_is_no_fault_of_a_new_task(
    sql_url: str, monkeypatch: pytest.MonkeyPatch, places: int
) -> None:
    """While the database cannot be reached, no batch gets smaller to look for a task at fault."""
    with peers(sql_url, 1) as (web,):
        web.host.places = places
        tasks = [offer(web), offer(web, 2)]
        with monkeypatch.context() as patched:
            lost = sa.exc.OperationalError("", {}, OSError("no route to host"))
            patched.setattr(web.database._engine.pool, "connect", Mock(side_effect=lost))
            assert not web.writer.attempt()
        assert web.writer.batches.claims
        assert web.writer.attempt()

        assert {web.row(one).process for one in tasks} == {""}
        assert numbers(web) == (2, 2)
