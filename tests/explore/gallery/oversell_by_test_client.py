"""Two threads with one ``TestClient`` buy the last ticket, in a test that is no coroutine."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import FastAPI

from framework import background_task, setup_async_framework
from pytest_asyncframe.probe import Probe


class Box:
    """A ticket office with one ticket left."""

    def __init__(self) -> None:
        self.left = 1
        self.sold: list[str] = []
        self.lock = threading.Lock()


@background_task
def send_receipt(buyer: str) -> str:
    """Send a mail."""
    return f"to {buyer}"


def racy_app(box: Box) -> FastAPI:
    """Sell without a lock; FastAPI runs ``def`` routes on several threads."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/buy/{buyer}")
    def buy(buyer: str) -> bool:
        if not box.left:
            return False
        send_receipt(buyer)
        box.left -= 1
        box.sold.append(buyer)
        return True

    return app


def correct_app(box: Box) -> FastAPI:
    """Sell with a lock around check and sale."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/buy/{buyer}")
    def buy(buyer: str) -> bool:
        with box.lock:
            if not box.left:
                return False
            send_receipt(buyer)
            box.left -= 1
            box.sold.append(buyer)
            return True

    return app


def sell(asyncframe: Probe, box: Box, app: FastAPI) -> None:
    """Let two threads buy at the same time."""
    with asyncframe.client(app) as client, ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(client.post, ("/buy/ann", "/buy/bob")))) == 2
        asyncframe.run_until_idle()
    assert len(box.sold) == 1


@pytest.mark.interleave
def test_racy(asyncframe: Probe) -> None:
    """Two people buy the last ticket; only one gets it."""
    box = Box()
    sell(asyncframe, box, racy_app(box))


@pytest.mark.interleave
def test_correct(asyncframe: Probe) -> None:
    """Two people buy the last ticket; only one gets it."""
    box = Box()
    sell(asyncframe, box, correct_app(box))
