"""A task that reads what its request has not committed yet, and the cure."""

from __future__ import annotations

import pytest

from tests.explore.sessions import run

SHOP = """
from contextlib import asynccontextmanager
import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from framework import background_task, setup_async_framework
from framework.stores.sql import SQLStore

@asynccontextmanager
async def lifespan(app):
    async with setup_async_framework(app, store=SQLStore(app.state.url)):
        yield

app = FastAPI(lifespan=lifespan)

@background_task
def receipt(item: str) -> str:
    with app.state.engine.connect() as connection:
        found = connection.execute(text("SELECT item FROM orders"))
        return found.scalar_one()

@app.post("/orders/{item}", status_code=202)
def order(item: str):
    with Session(app.state.engine) as session:
        session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": item})
        task_id = SUBMIT(item)
        session.commit()
    return task_id

@pytest.fixture
def shop(tmp_path):
    app.state.url = f"sqlite:///{tmp_path}/shop.db"
    app.state.engine = create_engine(app.state.url)
    with app.state.engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (item TEXT)"))
    yield
    app.state.engine.dispose()

@pytest.mark.interleave(level="line", policy="exhaustive:1", seeds=1000)
async def test_receipt(asyncframe, shop):
    async with asyncframe.client(app) as client:
        response = await client.post("/orders/tea")
        task = await asyncframe.completed(response.json())
    assert task.result == "tea"
"""


@pytest.mark.extended("time")
@pytest.mark.usefixtures("untraced")
def test_a_task_that_starts_before_the_commit(pytester: pytest.Pytester) -> None:
    """The explorer finds that a task does not see its row, and no schedule with the session."""
    result = run(pytester, SHOP.replace("SUBMIT", "receipt"))
    result.stdout.fnmatch_lines(["*order#1 paused before `session.commit()`*"])
    result.stdout.fnmatch_lines(["*it fails: *NoResultFound: No row was found*"])
    cured = run(pytester, SHOP.replace("SUBMIT", "receipt.options(session=session)"))
    cured.assert_outcomes(passed=1)
