"""Five races between lines of plain Python, each beside its cure, for runs of pytest inside one."""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from fastapi import FastAPI
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from framework import background_task, setup_async_framework
from pytest_asyncframe.probe import Probe


class Base(DeclarativeBase):
    """The tables."""


class Stock(Base):
    """How many there are."""

    __tablename__ = "stock"

    id: Mapped[int] = mapped_column(primary_key=True)
    left: Mapped[int]


async def both(
    asyncframe: Probe, first: Callable[[], object], second: Callable[[], object]
) -> None:
    """Call two functions in ``def`` routes at the same time."""
    app = FastAPI(lifespan=setup_async_framework)
    app.get("/first", response_model=None)(first)
    app.get("/second", response_model=None)(second)
    async with asyncframe.client(app) as client:
        await asyncio.gather(client.get("/first"), client.get("/second"))


async def buy_twice(asyncframe: Probe, folder: Path, statement: str) -> None:
    """Buy two pieces of ten, in two sessions."""
    engine = sqlalchemy.create_engine(f"sqlite:///{folder}/stock.db")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Stock(id=1, left=10))
        session.commit()

    def buy() -> None:
        with Session(engine) as session:
            if statement:
                session.execute(sqlalchemy.text(statement))
            else:
                stock = session.get_one(Stock, 1)
                stock.left -= 1
            session.commit()

    try:
        await both(asyncframe, buy, buy)
        with Session(engine) as session:
            assert session.get_one(Stock, 1).left == 8
    finally:
        engine.dispose()


@pytest.mark.interleave
async def test_racy_rows(asyncframe: Probe, tmp_path: Path) -> None:
    """A row is read, and written with what was read."""
    await buy_twice(asyncframe, tmp_path, "")


@pytest.mark.interleave
async def test_correct_rows(asyncframe: Probe, tmp_path: Path) -> None:
    """The database itself subtracts."""
    await buy_twice(asyncframe, tmp_path, "UPDATE stock SET left = left - 1")


@pytest.mark.interleave
async def test_racy_cache(asyncframe: Probe) -> None:
    """A cached function runs once."""
    calls = []

    @functools.lru_cache
    def settings() -> list[int]:
        calls.append(1)
        return [len(calls)]

    def route() -> list[int]:
        return settings()

    await both(asyncframe, route, route)
    assert len(calls) == 1


@pytest.mark.interleave
async def test_correct_cache(asyncframe: Probe) -> None:
    """A cached function runs once, since nobody else may call it meanwhile."""
    calls, lock = [], threading.Lock()

    @functools.lru_cache
    def settings() -> list[int]:
        calls.append(1)
        return [len(calls)]

    def locked() -> list[int]:
        with lock:
            return settings()

    await both(asyncframe, locked, locked)
    assert len(calls) == 1


class Picture:
    """What a cache has."""


@background_task
def look(cache: weakref.WeakValueDictionary[str, Picture]) -> None:
    """Take a picture if there is one."""
    if "a" in cache:
        assert cache["a"] is not None


@background_task
def look_once(cache: weakref.WeakValueDictionary[str, Picture]) -> None:
    """Take a picture if there is one, in one call."""
    cache.get("a")


@background_task
def drop(pictures: list[Picture]) -> None:
    """Forget the pictures."""
    pictures.clear()


@pytest.mark.interleave
async def test_racy_weak_values(asyncframe: Probe) -> None:
    """What was there may be gone at the next line."""
    pictures = [Picture()]
    look(weakref.WeakValueDictionary(a=pictures[0]))
    drop(pictures)
    await asyncframe.settled()


@pytest.mark.interleave
async def test_correct_weak_values(asyncframe: Probe) -> None:
    """One call finds it, or does not."""
    pictures = [Picture()]
    look_once(weakref.WeakValueDictionary(a=pictures[0]))
    drop(pictures)
    await asyncframe.settled()


@background_task
def save(folder: Path, temporary: str) -> None:
    """Write a file, and put it where the old one was."""
    new = folder / temporary
    new.write_text("new")
    new.replace(folder / "state")


@pytest.mark.interleave
async def test_racy_file(asyncframe: Probe, tmp_path: Path) -> None:
    """Two tasks write one temporary file."""
    save(tmp_path, "new")
    save(tmp_path, "new")
    await asyncframe.settled()


@pytest.mark.interleave
async def test_correct_file(asyncframe: Probe, tmp_path: Path) -> None:
    """Each task writes a temporary file of its own."""
    save(tmp_path, "new")
    save(tmp_path, "newer")
    await asyncframe.settled()


@background_task
def reload(settings: dict[str, str]) -> None:
    """Replace the settings."""
    settings.clear()
    settings.update(url="new")


@background_task
def update(settings: dict[str, str]) -> None:
    """Replace the settings in one call."""
    settings.update(url="new")


@background_task
def use(settings: dict[str, str]) -> str:
    """Read a setting."""
    return settings["url"]


@pytest.mark.interleave
async def test_racy_settings(asyncframe: Probe) -> None:
    """For a moment there are no settings."""
    settings = {"url": "old"}
    reload(settings)
    use(settings)
    await asyncframe.settled()


@pytest.mark.interleave
async def test_correct_settings(asyncframe: Probe) -> None:
    """There is always one."""
    settings = {"url": "old"}
    update(settings)
    use(settings)
    await asyncframe.settled()
