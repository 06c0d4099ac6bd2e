"""Tasks submitted with a session, in tests: memory takes the place of the app's store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from celery import Celery
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from framework import background_task, setup_async_framework
from framework.engines.celery import CeleryEngine
from framework.stores.sql import SQLStore
from pytest_asyncframe.probe import Probe

ORDERS = sa.Table("orders", sa.MetaData(), sa.Column("number", sa.Integer, primary_key=True))
ENGINES: list[sa.Engine] = []


@background_task
def look(number: int) -> bool:
    """Return whether the row of an order is there."""
    with ENGINES[0].connect() as connection:
        query = sa.select(ORDERS).where(ORDERS.c.number == number)
        return connection.execute(query).first() is not None


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The database of an app, which has its table and none of the store's."""
    url = f"sqlite:///{tmp_path}/shop.db"
    engine = sa.create_engine(url)
    ORDERS.metadata.create_all(engine)
    ENGINES.append(engine)
    yield url
    ENGINES.clear()
    engine.dispose()


def app_on(url: str) -> FastAPI:
    """Return an app whose store is in its database."""
    return FastAPI(lifespan=setup_async_framework(store=SQLStore(url)))


async def test_a_task_starts_after_the_commit(asyncframe: Probe, url: str) -> None:
    """A task is unknown until its session has committed; a rollback leaves none."""
    async with asyncframe.client(app_on(url)):
        manager = asyncframe.manager
        with Session(ENGINES[0]) as session:
            session.execute(ORDERS.insert().values(number=1))
            task_id = await manager.submit(look, (1,), session=session)
            await asyncframe.settled()
            assert await manager.get_task(task_id) is None
            session.commit()
            assert (await asyncframe.completed(task_id)).result is True
            look.options(session=session)(2)
            session.rollback()
            look.options(session=session)(3)
        await asyncframe.settled()
        assert len(asyncframe.submitted(look)) == 1


async def test_savepoints(asyncframe: Probe, url: str) -> None:
    """What a savepoint was rolled back with is dropped, and only that, at whatever depth."""
    async with asyncframe.client(app_on(url)):
        with Session(ENGINES[0]) as session, session.begin():
            submit = look.options(session=session)
            submit(1)
            with session.begin_nested() as outer:
                submit(2)
                with session.begin_nested():
                    submit(3)
                submit(4)
                outer.rollback()
            with session.begin_nested():
                submit(5)
            point = session.begin_nested()
            submit(6)
            point.rollback()
            submit(7)
            assert asyncframe.submitted(look) == []
        await asyncframe.settled()
        assert len(asyncframe.submitted(look)) == 3
        for number in (1, 5, 7):
            asyncframe.assert_submitted(look, number)


async def test_a_session_that_is_awaited(asyncframe: Probe, url: str) -> None:
    """A task starts after the commit of an AsyncSession, as after that of a Session."""
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    async with asyncframe.client(app_on(url)):
        async with AsyncSession(engine) as session:
            await session.execute(ORDERS.insert().values(number=1))
            task_id = await asyncframe.manager.submit(look, (1,), session=session)
            assert await asyncframe.manager.get_task(task_id) is None
            await session.commit()
        assert (await asyncframe.completed(task_id)).result is True
    await engine.dispose()


async def test_a_session_in_a_transaction_of_the_test(asyncframe: Probe, url: str) -> None:
    """A session on a connection that the test rolls back at its end commits for the task."""
    async with asyncframe.client(app_on(url)):
        with ENGINES[0].connect() as connection, connection.begin() as outer:
            session = Session(connection, join_transaction_mode="create_savepoint")
            dropped = await asyncframe.manager.submit(look, (1,), session=session)
            session.rollback()
            task_id = await asyncframe.manager.submit(look, (2,), session=session)
            session.commit()
            assert (await asyncframe.completed(task_id)).result is False
            assert await asyncframe.manager.get_task(dropped) is None
            outer.rollback()


async def test_what_a_deployed_app_refuses(asyncframe: Probe, url: str) -> None:
    """A test refuses what the app's store would, and a Connection, of which nothing is told."""
    async with asyncframe.client(app_on(url)):
        with Session(ENGINES[0]) as session:
            with pytest.raises(ValueError, match=r"^tests.*cannot be submitted with session: it "):
                look.options(session=session, unique=True)(1)
            with pytest.raises(TypeError, match=r"^session: in a test with memory in the place"):
                look.options(session=session.connection())(1)
    engine = CeleryEngine(Celery("shop", broker="redis://127.0.0.1"), default_limit=60)
    lifespan = setup_async_framework(engine=engine, store=SQLStore(url))
    async with asyncframe.client(FastAPI(lifespan=lifespan)):
        with pytest.raises(ValueError, match=r"^tests.*with session: the engine hands tasks to a "):
            look.options(session=Session(ENGINES[0]))(1)
    async with asyncframe.client(FastAPI(lifespan=setup_async_framework)):
        with pytest.raises(ValueError, match=r"^tests.*cannot be submitted with session: this app"):
            look.options(session=Session(ENGINES[0]))(1)
