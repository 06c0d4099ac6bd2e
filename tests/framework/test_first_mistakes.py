"""What the mistakes of a first day are answered with: what is wrong, and what to write."""

from __future__ import annotations

import re
from typing import Any

import pytest
from celery import Celery
from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import get_thread_pool, setup_async_framework


def test_a_setup_with_limits_is_a_lifespan() -> None:
    """A setup without an app, given to FastAPI, holds its limits at each start of the app."""
    app = FastAPI(lifespan=setup_async_framework(max_workers=3))
    for _ in range(2):
        with TestClient(app):
            assert app.state.thread_pool.get_stats()["max_workers"] == 3


async def test_a_setup_needs_no_app() -> None:
    """Without an app, and without saying None, a framework runs all the same."""
    async with setup_async_framework(max_workers=2):
        assert get_thread_pool().get_stats()["max_workers"] == 2


def test_a_setup_for_an_app_is_its_lifespan() -> None:
    """A setup that names the app it is then given to works as one that names none."""
    app = FastAPI()
    app.router.lifespan_context = setup_async_framework(app, max_workers=3)
    with TestClient(app):
        assert app.state.thread_pool.get_stats()["max_workers"] == 3


def test_a_setup_for_another_app_is_told() -> None:
    """A setup that names one app is refused as another one's lifespan, with both right forms."""
    lifespan = setup_async_framework(FastAPI(), max_workers=3)
    told = (
        r"^this lifespan was made for another app: leave the app out, as in "
        r"FastAPI\(lifespan=setup_async_framework\(max_workers=10\)\), or enter it inside a "
        r"lifespan of your own, 'async with setup_async_framework\(app, max_workers=10\):'$"
    )
    with pytest.raises(TypeError, match=told), TestClient(FastAPI(lifespan=lifespan)):
        pass


def test_with_in_place_of_async_with_is_told() -> None:
    """A plain with says that async with is needed."""
    setup: Any = setup_async_framework()
    told = r"^setup_async_framework\(\) needs a running event loop: write 'async with' in a "
    with pytest.raises(TypeError, match=told), setup:
        pass


MAKE_AN_ENGINE = (
    "engine must be an engine: write engine=CeleryEngine(celery_app), with 'from "
    "framework.engines.celery import CeleryEngine', not "
)
MAKE_A_STORE = (
    "store must be a store and not its URL: write store=SQLStore('sqlite:///tasks.db'), with "
    "'from framework.stores.sql import SQLStore'"
)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"store": "sqlite:///tasks.db"}, MAKE_A_STORE),
        ({"engine": "redis://localhost"}, f"{MAKE_AN_ENGINE}'redis://localhost'"),
        ({"engine": Celery("shop", set_as_current=False)}, f"{MAKE_AN_ENGINE}<Celery shop"),
    ],
    ids=["store", "engine", "Celery app"],
)
def test_what_a_part_is_made_of_is_told(parts: dict[str, Any], told: str) -> None:
    """A URL for a store, or a Celery app for an engine, is answered with how to make one."""
    with pytest.raises(TypeError, match=f"^{re.escape(told)}"):
        setup_async_framework(None, **parts)
