"""Tasks that are there if the transaction of their request commits."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from framework import TaskId, background_task, setup_async_framework
from framework.stores.sql import SQLStore


class Base(DeclarativeBase):
    """The tables of the app."""


class Order(Base):
    """An order of one item."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


sessions = sessionmaker[Session]()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the tasks in the database of the app."""
    url = os.environ.get("DATABASE_URL", "sqlite:///shop.db")
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    sessions.configure(bind=engine)
    async with setup_async_framework(app, store=SQLStore(url)):
        yield
    engine.dispose()


app = FastAPI(lifespan=lifespan)


@background_task
def send_receipt(order_id: int) -> str:
    """Read the order, which is there whenever this runs."""
    with sessions() as session:
        return f"receipt for {session.get_one(Order, order_id).item}"


@app.post("/orders", status_code=202)
def place(item: str) -> TaskId[str]:
    """Store an order together with its task, or neither of them."""
    with sessions.begin() as session:
        order = Order(item=item)
        session.add(order)
        session.flush()
        task_id = send_receipt.options(session=session)(order.id)
        if item == "unicorn":
            raise HTTPException(409, "sold out")
    return task_id


def test_receipt_after_the_commit() -> None:
    """The receipt finds its order, and an order that fails leaves no task."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DATABASE_URL"] = f"sqlite:///{folder}/shop.db"
        with TestClient(app) as client:
            manager = app.state.task_manager
            task_id = client.post("/orders", params={"item": "tea"}).json()
            assert manager.wait_result(task_id, timeout=60) == "receipt for tea"
            assert client.post("/orders", params={"item": "unicorn"}).status_code == 409
            assert list(manager.get_all_tasks()) == [task_id]
        del os.environ["DATABASE_URL"]
