"""The tables of the SQL store: made once, by whoever comes first, and brought up to date."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa

from benchmarks.history import fill
from framework import background_task
from framework._records.pages import PageQuery
from framework.exceptions import StoreUnavailableError
from framework.protocols import PlaceAnswer, PlaceRequest
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._shared.opening import _patience
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import META, PLACES, STEPS, prepare
from tests.children import python
from tests.processes.sql.siblings import peers

FOUR_START = """
import asyncio, multiprocessing, os, sys
from framework import get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore

async def main():
    async with setup_async_framework(None, store=SQLStore(sys.argv[1])):
        # In one write, since they share the pipe.
        result = await get_task_manager().submit(str, (5,), wait=True)
        os.write(1, f"{result}\\n".encode())

def start(together):
    together.wait()
    asyncio.run(main())

# Forked, so that what they need is imported once.
context = multiprocessing.get_context("fork")
together = context.Barrier(4)
started = [context.Process(target=start, args=(together,)) for _ in range(4)]
for process in started:
    process.start()
for process in started:
    process.join()
print(*[process.exitcode for process in started])
"""


@pytest.fixture
def database(sql_url: str) -> Iterator[Database]:
    """A database without tables."""
    with closing(Database(checked_url(sql_url), False)) as made:
        yield made


def columns(url: str, table: str) -> set[str]:
    """Return the names of a table's columns."""
    engine = sa.create_engine(url)
    try:
        return {column["name"] for column in sa.inspect(engine).get_columns(table)}
    finally:
        engine.dispose()


def test_tables_are_what_the_code_says(database: Database, sql_url: str) -> None:
    """Each table has the columns that the code reads, and no others."""
    prepare(database)

    for table in META.metadata.tables.values():
        assert columns(sql_url, table.name) == {column.name for column in table.columns}


@pytest.mark.extended("processes")
def test_four_processes_start_at_once(sql_url: str) -> None:
    """Four processes that find no tables at the same moment all start, with one set of tables."""
    done = python("-c", FOUR_START, sql_url)

    assert done.stdout == "5\n" * 4 + "0 0 0 0\n"
    # It is told that an end takes more than a second, as on a busy machine.
    told = done.stderr.splitlines()
    assert [line for line in told if not line.startswith("shutting down: still waiting")] == []
    with peers(sql_url, 1) as (peer,), peer.database.reading() as connection:
        assert connection.execute(sa.select(META.c.schema_version)).scalars().all() == [len(STEPS)]


def test_migration_keeps_the_data(sql_url: str) -> None:
    """A database of the version before gets the next step, once, and keeps its rows."""
    with peers(sql_url, 1) as (peer,):
        (record,) = peer.finished()
        further = (*STEPS, ("ALTER TABLE asyncframe_tasks ADD COLUMN further TEXT",))
        prepare(peer.database, further)
        prepare(peer.database, further)

        assert "further" in columns(sql_url, "asyncframe_tasks")
        assert peer.row(record).status == "completed"
        with peer.database.reading() as connection:
            assert (
                connection.execute(sa.select(META.c.schema_version)).scalar_one() == len(STEPS) + 1
            )


def test_the_version_before_is_upgraded(sql_url: str) -> None:
    """Tasks of the release before belong to nobody, and are listed as before."""
    fill(sql_url, 200, STEPS[:3])
    with peers(sql_url, 1) as (peer,):
        named, anns = (PageQuery(9, name="shop.tasks.job_3"), PageQuery(9, owner="ann"))
        assert [one.owner for one in peer.history.page(named)] == [None] * 9
        assert (peer.history.count(named), peer.history.count(anns)) == (10, 0)
        peer.end(peer.accept(owner="ann"))
        peer.writer.batches.write()
        assert [one.owner for one in peer.history.page(anns)] == ["ann"]


def test_a_free_task_of_the_version_before(sql_url: str, database: Database) -> None:
    """A task that belongs to nobody when the tables are upgraded is taken like any other."""
    prepare(database, STEPS[:6])
    with database.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO asyncframe_tasks VALUES ('old', 'tests.old', '', 'pending', '', 0, 1, "
            "NULL, NULL, 0, NULL, '', NULL, NULL, '', 0, 0, 1, '[[],{}]', '{}', NULL, NULL)"
        )

    @background_task(name="tests.old")
    def old() -> None: ...

    with peers(sql_url, 1) as (peer,):
        peer.host.rooms = 1
        peer.tick()
        assert [one.name for one in peer.host.taken_over] == ["tests.old"]
        assert peer.row(peer.host.taken_over[0]).level == 1


def test_places_of_the_version_before_are_kept(sql_url: str, database: Database) -> None:
    """A task that has a place when the tables are upgraded keeps it, and can be replaced."""
    prepare(database, STEPS[:4])
    with database.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO asyncframe_processes VALUES ('old', 'host', 1, 0, 0)"
        )
        connection.exec_driver_sql(
            "INSERT INTO asyncframe_places VALUES ('key', 'old task', 'old', 1, 1, 1, 1, 1)"
        )
    with peers(sql_url, 1) as (peer,):
        told: list[PlaceAnswer] = []
        peer.writer.lines.join(PlaceRequest("key", "new task", 1, replaces=True), told.append)
        peer.writer.lines.settle()
        assert told == [PlaceAnswer(False, ("old task",), replaces=True)]
        with peer.database.reading() as connection:
            wished = sa.select(PLACES.c.task_id, PLACES.c.replaced_by).where(
                PLACES.c.replaced_by.is_not(None)
            )
            assert connection.execute(wished).all() == [("old task", "new task")]


NEXT = len(STEPS) + 1
FORMS = [(0,), (0, 3), (0, 1, 3), (0, 1, 3, 4, 5, 9, 10), (0, 1, 2, 3, 4, 5, 9, 10), range(11)]
"""The statements of the third step that databases were made by while it was the latest one."""


def test_each_form_of_the_third_version_is_upgraded(database: Database) -> None:
    """A database of the third version gets what its step has lacked when it was made."""

    def made() -> dict[str, list[str]]:
        with database.reading() as connection:
            found = sa.inspect(connection)
            return {
                table: sorted(
                    str(one["name"]) for one in found.get_columns(table) + found.get_indexes(table)
                )
                for table in found.get_table_names()
            }

    prepare(database)
    expected = made()
    for form in FORMS:
        with database.writing() as connection:
            for table in META.metadata.tables:
                connection.exec_driver_sql(f"DROP TABLE {table}")
        prepare(database, (*STEPS[:2], tuple(STEPS[2][number] for number in form)))
        prepare(database)
        assert made() == expected


def test_a_step_that_has_landed_does_not_change() -> None:
    """Databases were made by each step as it is; what is to change is a step of its own."""
    digests = [
        hashlib.sha256(" ".join(" ".join(step).split()).encode()).hexdigest()[:12] for step in STEPS
    ]
    assert digests == [
        "3a9e05ff4124",
        "605291054301",
        "51b2ee74ddca",
        "9c385d9ac7b4",
        "f3245e88e586",
        "76763c1e41a9",
        "387ff8bc446c",
        "0e4758ef0b58",
        "cbbb5f7d1055",
        "f8ac2eed7a3d",
        "7aa2f8f77856",
        "8ab9e20d3e02",
        "9740d742e8d6",
        "83e28f9c1dd9",
        "b88dfaeaaebb",
        "9b807f7d00ce",
        "98c7a1f0c97e",
        "8161ca80580b",
        "0d19a8f37c47",
        "5f7c201f02bc",
        "68e73a6968bd",
        "5287cadefc25",
        "06869fd39d2e",
        "b840eaae2edc",
        "8785afd11b68",
    ]


def test_first_version_is_upgraded(sql_url: str) -> None:
    """The tables of the first release get their indexes, and keep their tasks."""
    fill(sql_url, 200, STEPS[:1])
    with peers(sql_url, 1) as (peer,):
        assert peer.mirror.figures()["failed"] == 4
        assert len(peer.history.page(PageQuery(9, name="shop.tasks.job_3"))) == 9
        found = sa.inspect(peer.database._engine).get_indexes("asyncframe_tasks")
        assert {index["name"]: index["column_names"] for index in found} == {
            "asyncframe_tasks_asleep": ["process", "due_at"],
            "asyncframe_tasks_ended": ["ended_at", "task_id", "status", "started_at"],
            "asyncframe_tasks_free_label": ["label", "created_at", "owner", "name"],
            "asyncframe_tasks_free_name": ["name", "created_at"],
            "asyncframe_tasks_free_owner": ["owner", "created_at", "name"],
            "asyncframe_tasks_label": [
                *("label", "created_at", "status", "owner", "name", "ended_at")
            ],
            "asyncframe_tasks_live": ["process", "created_at", "task_id", "name", "owner"],
            "asyncframe_tasks_created": ["created_at", "status", "ended_at"],
            "asyncframe_tasks_name": ["name", "created_at", "status", "ended_at"],
            "asyncframe_tasks_owner": ["owner", "created_at", "status", "name", "ended_at"],
            "asyncframe_tasks_ready": ["name", "level", "created_at", "task_id"],
            "asyncframe_tasks_status": ["status", "created_at", "ended_at"],
            "asyncframe_tasks_unwanted": ["process", "task_id"],
            "asyncframe_tasks_version": ["version", "task_id"],
        }


@pytest.mark.extended("time")
def test_patience_with_an_upgrade(database: Database, sql_url: str) -> None:
    """A process waits long for another one that upgrades the tables, and for nothing else."""
    other_database = Database(checked_url(sql_url), durable=False)
    prepare(database, STEPS[:1])
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE asyncframe_meta SET version = 1")
        with pytest.raises(sa.exc.OperationalError) as locked, other_database.writing() as other:
            other.exec_driver_sql("UPDATE asyncframe_meta SET version = 1")
    with pytest.raises(sa.exc.SQLAlchemyError) as wrong, database.writing() as connection:
        connection.exec_driver_sql("no SQL at all")

    assert (_patience(database, locked.value), _patience(database, wrong.value)) == (300.0, 5.0)
    prepare(database)
    assert _patience(database, locked.value) == 5.0
    other_database.close()


def test_failed_step_changes_nothing(database: Database, sql_url: str) -> None:
    """A step that fails half-way leaves the tables at the version before."""
    prepare(database)
    further = (*STEPS, ("ALTER TABLE asyncframe_tasks ADD COLUMN further TEXT", "no SQL at all"))

    with pytest.raises(
        sa.exc.SQLAlchemyError, match=r'^\([\w.]+\) (syntax error at or )?near "no"'
    ):
        prepare(database, further)

    assert "further" not in columns(sql_url, "asyncframe_tasks")
    with database.reading() as connection:
        assert connection.execute(sa.select(META.c.schema_version)).scalar_one() == len(STEPS)


def test_newer_tables_are_refused(database: Database) -> None:
    """Tables of a newer release are left alone, with an error that says so."""
    prepare(database, (*STEPS, ("ALTER TABLE asyncframe_tasks ADD COLUMN further TEXT",)))

    with pytest.raises(
        StoreUnavailableError,
        match=rf"^the tables of this database have version {NEXT}, but this release supports "
        rf"{len(STEPS)}: use the release that created them, or a newer one$",
    ):
        prepare(database)
