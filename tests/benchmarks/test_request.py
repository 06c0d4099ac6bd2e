"""The steps of a request: every way serves, and the tables say what each adds."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from benchmarks import request, request_app
from benchmarks.request import Cost
from benchmarks.request_app import JOBLESS, WAYS, Served
from benchmarks.request_calls import as_text as calls_as_text
from benchmarks.served_app import NO_ID

SCOPE = {"type": "http", "method": "POST", "path": "/start", "headers": [], "query_string": b""}


async def _asked(way: Served) -> str:
    """Return the id in the answer to one request."""
    body = b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        nonlocal body
        body += message.get("body", b"")

    with way.entered():
        await way.app({**SCOPE, "root_path": ""}, receive, send)
        # Once submitted, a task is handed over in the next turn.
        for _ in range(2):
            await asyncio.sleep(0)  # noqa: TID251  # gives way once; no time has to pass
    answer: dict[str, str] = json.loads(body)
    return answer["task_id"]


async def _asked_all() -> tuple[dict[str, bool], int]:
    """Ask each way once; return which gave an id, and how many jobs have ended."""
    before = len(request_app.RAN)
    async with request_app.ways() as ways:
        gave_id = {way.way: await _asked(way) != NO_ID for way in ways}
        expected = before + len({*WAYS} - JOBLESS)
        while len(request_app.RAN) + len(request_app.ASIDE) < expected:  # noqa: ASYNC110  # two lists
            await asyncio.sleep(0)  # noqa: TID251  # a thread ends them; no time has to pass
        request_app.forget()
    return gave_id, len(request_app.RAN) - before


def test_every_way_is_served() -> None:
    """Each way answers, gives an id if it submits a task, and its job ends once."""
    gave_id, ended = asyncio.run(_asked_all())

    assert gave_id == {way: way in request_app.OURS and way not in JOBLESS for way in WAYS}
    assert ended == len({*WAYS} - JOBLESS)


def test_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is the median difference to the one before it, a ratio that of the same round."""
    monkeypatch.setattr(request, "STEPS", {"one": ("floor", "more")})
    monkeypatch.setattr(request, "BESIDE", ("more",))
    monkeypatch.setattr(request, "GOALS", {("more", "floor"): {"asyncio": 1.5}})
    monkeypatch.setattr(request, "FLOOR", "floor")
    costs = {
        "floor": [Cost(10, 0, 20), Cost(20, 0, 20), Cost(30, 0, 20)],
        "more": [Cost(12, 1, 20), Cost(24, 2, 20), Cost(36, 3, 20)],
    }

    text = request.as_text("asyncio", costs)

    assert re.sub(" +", " ", text).splitlines() == [
        "asyncio: one CPU us step loop threads",
        " floor 20.00 +0.00 20.00 0.00",
        " more 26.00 +6.00 24.00 2.00",
        "",
        "asyncio: beside no job",
        " more 26.00 +6.00 24.00 2.00",
        "",
        " more / floor: 1.300 (quartiles 1.300 and 1.300, goal 1.50)",
    ]


def test_list_of_calls() -> None:
    """The framework's functions are listed with their place, and all are summed up."""
    ours = {"place": "framework/x.py", "name": "f", "steps": 10, "on_loop": False}
    other = {"place": "fastapi", "name": "g", "steps": 1_000, "on_loop": True}

    text = calls_as_text("a way", [other, ours, other], [other])

    assert text.splitlines() == [
        (
            "a way: 2,010 instructions in 3 calls of 2 functions; without a job 1,000 "
            "instructions in 1 calls of 1 functions; the framework's 10 instructions in 1 calls "
            "of 1 functions"
        ),
        "   10 on the thread: framework/x.py: f",
    ]
