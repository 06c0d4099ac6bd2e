"""A throttled task, and tests for its rate."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import FastAPI

from framework import async_task, background_task, setup_async_framework, throttled_task
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)


@background_task
@throttled_task(rate_limit=2, time_window=60, when_limited="wait")
def send(number: int) -> datetime:
    """Send at most two messages a minute; the others wait for their turn."""
    return datetime.now(UTC)


@async_task
@throttled_task(rate_limit=2, time_window=60)
async def search(text: str) -> str:
    """Search at most twice a minute; the third call is refused."""
    return f"found {text}"


@app.get("/search")
async def start_search(text: str) -> str:
    """Search; the third call in a minute gets 429."""
    return await search(text)


def test_messages_wait_for_their_turn(asyncframe: Probe) -> None:
    """Five messages take two minutes, with at most two in any minute."""
    ids = [send(number) for number in range(5)]
    sent = [asyncframe.run_until_complete(task_id).result for task_id in ids]

    assert [(at - sent[0]).total_seconds() for at in sent] == [0, 0, 60, 60, 120]
    assert asyncframe.rate(send).max_in(60) == 2


async def test_the_third_is_sent_away(asyncframe: Probe) -> None:
    """The third search in a minute gets 429; a minute later it is allowed again."""
    async with asyncframe.client(app) as client:
        answers = [await client.get("/search", params={"text": "tea"}) for _ in range(3)]
        await asyncframe.clock.run_for(60)
        answers.append(await client.get("/search", params={"text": "tea"}))

    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    assert answers[2].headers["Retry-After"] == "60"
