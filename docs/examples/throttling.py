"""A rate limit for each user that answers 429, and a rate limit that waits."""

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from framework import background_task, setup_async_framework, throttled_task

app = FastAPI(lifespan=setup_async_framework)


class Message(BaseModel):
    """A message from a user."""

    user: str
    text: str


def by_user(message: Message) -> str:
    """Return the user; takes the same parameters as the throttled function."""
    return message.user


@throttled_task(rate_limit=2, time_window=60, key=by_user)
async def send(message: Message) -> str:
    """Send a message; each user may send two a minute."""
    return f"{message.user}: {message.text}"


@app.post("/messages")
async def post_message(message: Message) -> str:
    """Send a message; above the rate limit the response is 429."""
    return await send(message)


@background_task
@throttled_task(rate_limit=1, time_window=0.02, when_limited="wait")
def call_slow_partner(number: int) -> int:
    """Call a slow service; tasks wait for their turn."""
    return number


def test_each_user_has_a_rate_of_their_own() -> None:
    """The third message from one user is refused, but not the first from another."""
    ann, bob = ({"user": user, "text": "hi"} for user in ("ann", "bob"))
    with TestClient(app) as client:
        assert [client.post("/messages", json=ann).status_code for _ in range(2)] == [200, 200]
        refused = client.post("/messages", json=ann)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json() == {"detail": "Rate limit exceeded"}
        assert client.post("/messages", json=bob).status_code == 200


def test_tasks_wait_for_their_turn() -> None:
    """Three tasks complete although only one may run per window."""
    with TestClient(app):
        manager = app.state.task_manager
        ids = [manager.submit_nowait(call_slow_partner, (number,)) for number in range(3)]
        assert [manager.wait_result(one, timeout=60) for one in ids] == [0, 1, 2]
