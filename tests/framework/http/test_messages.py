"""The routes that send messages to tasks."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, Header, Request
from pydantic import BaseModel

from framework import background_task, setup_async_framework
from framework.http import task_router
from framework.steps import Message
from pytest_asyncframe.probe import Probe


class Decision(BaseModel):
    """What somebody has decided."""

    approved: bool
    by: str


DECISION = Message("decision", Decision)
RATING = Message("rating", int)
MARK = {"X-Requested-With": "tests"}


@background_task(on_restart="resume", name="tests.asks_for_a_decision")
async def ask() -> str:
    """Wait for a decision."""
    decision = await DECISION.receive()
    return f"{decision.approved} by {decision.by}"


def owner(request: Request) -> str | None:
    """Whom tasks belong to."""
    return request.headers.get("user")


def app_with(**options: Any) -> FastAPI:
    """Return an app whose tasks wait for decisions."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router(messages=[DECISION, RATING], **options))

    @app.post("/ask")
    async def begin(user: str | None = Header(None)) -> str:
        return ask()

    return app


async def test_a_decision_over_http(asyncframe: Probe) -> None:
    """A message is checked, stored once for each key, and received by a task of the sender."""
    async with asyncframe.client(app_with(owner=owner)) as client:
        ann, bob = {**MARK, "user": "ann"}, {**MARK, "user": "bob"}
        task_id = (await client.post("/ask", headers=ann)).json()
        url, body = f"/tasks/{task_id}/messages/decision", {"approved": True, "by": "ann"}
        codes = [
            (await client.post(where, json=sent, headers=headers)).status_code
            for where, sent, headers in [
                (url, body, {"user": "ann"}),
                (url, body, bob),
                (url, {"approved": "perhaps"}, ann),
                (f"/tasks/{task_id}/messages/rating", 5, {**ann, "Idempotency-Key": "r"}),
                (f"/tasks/{task_id}/messages/rating", 6, {**ann, "Idempotency-Key": "r"}),
            ]
        ]
        long = await client.post(url, json={"approved": True, "by": "a" * 1_048_576}, headers=ann)
        await asyncframe.clock.run_for(1)
        steps = (await client.get(f"/tasks/{task_id}/steps", headers=ann)).json()["steps"]
        foreign = await client.get(f"/tasks/{task_id}/steps", headers=bob)
        sent = await client.post(url, json=body, headers=ann)
        result = await asyncframe.manager.get_result(task_id)
        late = await client.post(url, json=body, headers=ann)

    assert [(one["name"], one["state"]) for one in steps] == [
        ("framework.steps.receive decision", "waiting")
    ]
    assert foreign.status_code == 404
    assert codes == [403, 404, 422, 202, 409]
    assert (long.status_code, long.json()["detail"].partition(",")[0]) == (
        413,
        "message 'decision' takes 1",
    )
    assert (sent.status_code, sent.json()) == (202, {"task_id": task_id, "message": "decision"})
    assert (late.status_code, late.json()) == (
        409,
        {"detail": "This message is refused: the task has ended"},
    )
    assert result == "True by ann"


async def test_a_message_of_another_name(asyncframe: Probe) -> None:
    """A client is told which messages there are; a later route of the app's own is not hidden."""
    app, bare = app_with(), FastAPI(lifespan=setup_async_framework)
    bare.include_router(task_router())
    url = "/tasks/{}/messages/{}".format

    @app.post(url("{task_id}", "own"))
    def take(task_id: str) -> str:
        return "taken"

    async with asyncframe.client(app) as client, asyncframe.client(bare) as another:
        task_id = (await client.post("/ask")).json()
        answers = [
            (answer.status_code, answer.json().get("detail"))
            for answer in [
                await client.post(url(task_id, "Decision"), json={}, headers=MARK),
                await another.post(url(task_id, "decision"), headers=MARK),
                await client.post(url("0" * 32, "Decision"), headers=MARK),
                await client.get(url(task_id, "Decision")),
            ]
        ]
        unmarked = await client.post(url(task_id, "Decision"), json={})
        own = await client.post(url(task_id, "own"))
        body = {"approved": True, "by": "ann"}
        sent = await client.post(url(task_id, "decision"), json=body, headers=MARK)
        await asyncframe.manager.get_result(task_id)

    has = "it has 'decision', 'rating'"
    assert answers == [
        (404, f"This app has no message 'Decision': {has}"),
        (404, "This app has no message 'decision': its task_router() was given none"),
        (404, "Task not found"),
        (404, "Not Found"),
    ]
    assert (unmarked.status_code, own.json(), sent.status_code) == (403, "taken", 202)


def test_it_is_typed_in_openapi() -> None:
    """Each kind of message has a route of its own, with its type, and no other route is there."""
    paths = app_with().openapi()["paths"]
    assert [path for path in paths if "{name}" in path] == []

    decision = paths["/tasks/{task_id}/messages/decision"]["post"]
    schema = decision["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Decision"}
    assert decision["operationId"] == "send_decision"
    assert set(decision["responses"]) >= {"202", "404", "409", "422"}
    rating = paths["/tasks/{task_id}/messages/rating"]["post"]
    assert rating["requestBody"]["content"]["application/json"]["schema"]["type"] == "integer"


def test_bad_messages_of_a_router() -> None:
    """What is no message, or has the name of another one, is refused where the router is made."""
    with pytest.raises(TypeError, match=r"^message 'due' needs a type .* reads .*, not 'Due'$"):
        Message("due", "Due")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError, match=r"^messages must be framework.steps.Message, not 'deci"):
        task_router(messages=["decision"])  # type: ignore[list-item]  # the mistake
    with pytest.raises(ValueError, match=r"^messages has two of the name 'decision'$"):
        task_router(messages=[DECISION, Message("decision", int)])
