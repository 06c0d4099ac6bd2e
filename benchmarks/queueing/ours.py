"""asyncframe, with workers over a durable store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import sqlalchemy as sa
from fastapi import FastAPI

from benchmarks.queueing import _marks
from framework import background_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore


@background_task(on_restart="requeue", name="note")
async def note(number: int) -> None:
    """Note that it runs."""
    _marks.note(number)


def make_app() -> FastAPI:
    """Return the app of the workers and of the process that submits."""
    store = SQLStore(os.environ[_marks.URL], durable=True)
    return FastAPI(lifespan=setup_async_framework(max_workers=0, store=store))


def prepare() -> None:
    """Do nothing: whoever comes first makes the tables."""


@asynccontextmanager
async def submitting() -> AsyncIterator[_marks.Submit]:
    """Submit from a process that only submits."""
    app = make_app()
    async with app.router.lifespan_context(app):
        manager = get_task_manager()

        async def one(number: int) -> None:
            await manager.submit(note, (number,))

        async def many(numbers: Sequence[int]) -> None:
            await manager.submit_many(note, numbers)

        yield _marks.Submit(one, many)


def left() -> int:
    """Return how many tasks have not ended."""
    engine = sa.create_engine(os.environ[_marks.URL], poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT count(*) FROM asyncframe_tasks WHERE ended_at IS NULL")
        )
        return int(found.scalar_one())


def work() -> None:
    """Run ``asyncframe worker``, which says itself that it is ready."""
    from framework.cli import main

    options = ["--factory", "--max-workers", str(_marks.PLACES)]
    main(["worker", "benchmarks.queueing.ours:make_app", *options])
