"""A task needs what the task before it has made: level "tasks"."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from framework import async_task, background_task, setup_async_framework
from pytest_asyncframe.probe import Probe


class Accounts:
    """The accounts, and the mails that were sent."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.mails: list[str] = []


@background_task
def create(accounts: Accounts, user: str) -> None:
    """Create an account."""
    accounts.names[user] = user.title()


@async_task
def create_first(accounts: Accounts, user: str) -> None:
    """Create an account, and let the route wait for it."""
    accounts.names[user] = user.title()


@background_task
def welcome(accounts: Accounts, user: str) -> None:
    """Send a mail to the owner of an account."""
    accounts.mails.append(f"Dear {accounts.names.get(user)}")


def racy_app(accounts: Accounts) -> FastAPI:
    """Submit both tasks, and rely on their order."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/users/{user}")
    async def register(user: str) -> None:
        create(accounts, user)
        welcome(accounts, user)

    return app


def correct_app(accounts: Accounts) -> FastAPI:
    """Wait for the first task before submitting the second."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/users/{user}")
    async def register(user: str) -> None:
        await create_first(accounts, user)
        welcome(accounts, user)

    return app


async def register(asyncframe: Probe, accounts: Accounts, app: FastAPI) -> None:
    """Register Ann."""
    async with asyncframe.client(app) as client:
        await client.post("/users/ann")
        await asyncframe.settled()
    assert accounts.mails == ["Dear Ann"]


@pytest.mark.interleave(level="tasks")
async def test_racy(asyncframe: Probe) -> None:
    """A new user gets a mail with her name."""
    accounts = Accounts()
    await register(asyncframe, accounts, racy_app(accounts))


@pytest.mark.interleave(level="tasks")
async def test_correct(asyncframe: Probe) -> None:
    """A new user gets a mail with her name."""
    accounts = Accounts()
    await register(asyncframe, accounts, correct_app(accounts))
