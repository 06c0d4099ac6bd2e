"""What HTTP shows of a task: any result, and nothing that is not meant to be shown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field, field_serializer

from framework import Task, TaskManager, get_task_manager, setup_async_framework
from framework._tasks.wire import encode_result
from framework.http import TaskView


class Report(BaseModel):
    """A result that OpenAPI describes."""

    title: str
    score: float = 1.0


class Article(Report):
    """A report with more than a response shows."""

    secret: str = "hidden"


@dataclasses.dataclass
class Draft:
    """A report that is no model."""

    title: str


class Row:
    """A report as an ORM has it."""

    title = "of a row"
    score = 2.0
    secret = "hidden"


class Unshowable:
    """An object whose repr raises."""

    def __repr__(self) -> str:
        raise LookupError("hidden")


class Aliased(BaseModel):
    """A model whose JSON has other names."""

    title: str = Field(serialization_alias="headline", validation_alias="name")


class Unserializable(BaseModel):
    """A model whose serializer raises."""

    title: str

    @field_serializer("title")
    def _shown(self, title: str) -> str:
        raise LookupError(title)


def cycle() -> dict[str, Any]:
    """Return a dict that has itself."""
    found: dict[str, Any] = {}
    found["self"] = found
    return found


def strict(content: bytes) -> Any:
    """Return what strict JSON says."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(content, parse_constant=refuse)


def as_answered(model: Any, result: Any) -> dict[str, Any]:
    """Return the body of a user's route of type *model* that returns a task with this result."""
    app = FastAPI(lifespan=setup_async_framework)

    async def show() -> Task:
        manager = get_task_manager()
        return await manager.wait(await manager.submit(lambda: result))

    app.get("/", response_model=model)(show)
    with TestClient(app) as client:
        answer = client.get("/")
    assert answer.status_code == 200, answer.text
    body = strict(answer.content)
    assert isinstance(body, dict)
    return body


OF_THE_TYPE: dict[str, tuple[Any, Any, Any]] = {
    "a model": (TaskView[Report], Report(title="a"), {"title": "a", "score": 1.0}),
    "more than the model": (TaskView[Report], Article(title="a"), {"title": "a", "score": 1.0}),
    "a dict": (TaskView[Report], {"title": "a"}, {"title": "a", "score": 1.0}),
    "a dataclass": (TaskView[Report], Draft("a"), {"title": "a", "score": 1.0}),
    "a row": (TaskView[Report], Row(), {"title": "of a row", "score": 2.0}),
    "aliases": (TaskView[Aliased], Aliased.model_validate({"name": "a"}), {"headline": "a"}),
    "a set": (TaskView[list[int]], {1}, [1]),
    "many": (TaskView[list[int]], list(range(150_000)), list(range(150_000))),
    "a cycle": (TaskView[dict[str, Any]], cycle(), {"self": "<cycle: dict>"}),
    "bytes inside": (TaskView[dict[str, Any]], {"b": b"\xff"}, {"b": "<bytes: 1 bytes>"}),
    "a float": (TaskView[float], 1.5, 1.5),
    "nothing": (TaskView[Report], None, None),
}
"""What a route promises, what its task returns, and what is shown of that."""


def test_results_of_a_type() -> None:
    """A result is shown as the type that the route promises, and no more of it."""
    wrong = {}
    for name, (model, result, shown) in OF_THE_TYPE.items():
        body = as_answered(model, result)
        if (body["result"], body["result_problem"]) != (shown, None):
            wrong[name] = body
    assert wrong == {}


def test_what_a_result_lacks_in_json() -> None:
    """A result that JSON shows in part, or as a mere text, says so beside it."""
    meeting = {1: "a", "1": "b", (1, True, None): "c"}
    lost = "two keys of a mapping are '1' in JSON: one of their values is lost"
    bodies = [
        as_answered(model, result)
        for model in (TaskView, TaskView[dict[str, Any]])
        for result in (meeting, {"of": {"it": Row()}})
    ]
    for body in bodies[::2]:
        assert (body["result"], body["result_problem"]) == ({"1": "b", "1,true,None": "c"}, lost)
    # As a store has the keys, which refuses two that are the same.
    assert encode_result(None, {(1, True, None): "c"}) == '{"1,true,None":"c"}'
    for body in bodies[1::2]:
        assert body["result_problem"] == (
            "a value of type Row has no form in JSON: its repr is shown"
        )


OF_ANOTHER_TYPE: dict[str, tuple[Any, Any, str]] = {
    "an int": (TaskView[Report], 5, "int"),
    "a wrong dict": (TaskView[Report], {"secret": "hidden"}, "dict"),
    "nan inside": (TaskView[Report], Report(title="a", score=math.nan), "Report"),
    "infinity": (TaskView[float], math.inf, "float"),
    "bytes": (TaskView[str], b"\xff", "bytes"),
    "no repr, no text": (TaskView[str], Unshowable(), "Unshowable"),
    "no repr": (TaskView[Report], Unshowable(), "Unshowable"),
    "a bad serializer": (
        TaskView[Unserializable],
        Unserializable(title="hidden"),
        "Unserializable",
    ),
    "a generator": (TaskView[list[int]], (number for number in [1]), "generator"),
    "a row": (TaskView[dict[str, Any]], Row(), "Row"),
}
"""What a route promises, what its task returns, and the type that is told."""


def test_results_of_another_type() -> None:
    """A result that does not fit is left out, and its type alone is told."""
    bodies = {
        name: as_answered(model, result) for name, (model, result, _) in OF_ANOTHER_TYPE.items()
    }
    assert {
        name: (body["status"], body["result"], body["result_problem"])
        for name, body in bodies.items()
    } == {
        name: ("completed", None, f"its type, {kind}, is not what this response shows")
        for name, (_, _, kind) in OF_ANOTHER_TYPE.items()
    }
    assert "hidden" not in json.dumps(bodies)


def test_a_problem_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Clients that ask again and again do not fill the log."""

    class Own(TaskView[Report]):
        """A view of this test alone."""

    app = FastAPI(lifespan=setup_async_framework)

    async def show() -> Task:
        manager = get_task_manager()
        return await manager.wait(await manager.submit(len, args=("",), description="same"))

    app.get("/", response_model=Own)(show)
    with TestClient(app) as client:
        for _ in range(3):
            assert client.get("/").json()["result"] is None
    said = (
        "a result of builtins.len is not shown, since it is no result of Own: result: Input should "
        "be a valid dictionary or object to extract fields from (1 errors in all)"
    )
    assert caplog.messages.count(said) == 1


def numbers() -> Iterator[int]:
    """Yield a number."""
    yield 1


NUMBERS = numbers()

OF_ANY_TYPE: dict[str, tuple[Any, Any]] = {
    "nan": (math.nan, "<nan>"),
    "infinity": (-math.inf, "<-inf>"),
    "bytes": (b"\xff", "<bytes: 1 bytes>"),
    "a set": ({"b"}, ["b"]),
    "a cycle": (cycle(), {"self": "<cycle: dict>"}),
    "a surrogate": ("\ud800", "?"),
    "a long int": (10**5_000, "<int: 16610 bits>"),
    "no repr": (Unshowable(), "<Unshowable whose repr raises LookupError>"),
    "a generator": (NUMBERS, repr(NUMBERS)),
    "a model": (
        Article(title="a", score=math.nan),
        {"title": "a", "score": "<nan>", "secret": "hidden"},
    ),
    "a long text": ("x" * 2_000_000, "x" * 2_000_000),
    "keys": ({"\ud800": {1: math.inf}}, {"?": {"1": "<inf>"}}),
}
"""What a task returns, and what is shown of that."""

SHOWN_AS_REPR: dict[str, str] = {
    name: f"a value of type {kind} has no form in JSON: its repr is shown"
    for name, kind in (("no repr", "Unshowable"), ("a generator", "generator"))
}
"""What is said of results whose repr is shown."""


@pytest.mark.parametrize("model", [TaskView, TaskView[Any]])
def test_results_of_any_type(model: Any) -> None:
    """Every result is shown as strict JSON; what JSON does not have is replaced by a text."""
    bodies = {name: as_answered(model, result) for name, (result, _) in OF_ANY_TYPE.items()}
    assert {name: (body["result"], body["result_problem"]) for name, body in bodies.items()} == {
        name: (shown, SHOWN_AS_REPR.get(name)) for name, (_, shown) in OF_ANY_TYPE.items()
    }


def test_a_huge_result_is_cut() -> None:
    """A result of any type is shown up to 100,000 values."""
    shown = as_answered(TaskView, list(range(150_000)))["result"]
    assert shown[-1] == "<cut after 100000 values>"
    assert len(shown) == 100_000


async def test_what_a_view_exposes(task_manager: TaskManager) -> None:
    """The message of an error is in a view only if it is asked for."""

    def fail() -> None:
        raise LookupError("hidden")

    task = await task_manager.wait(await task_manager.submit(fail))
    assert isinstance(task.error, LookupError)
    closed, opened = TaskView[Any].of(task), TaskView[Report].of(task, expose_errors=True)
    assert (closed.error_type, closed.error_message) == ("LookupError", None)
    assert "hidden" not in closed.model_dump_json()
    assert opened.error_message == "hidden"


def test_a_client_reads_a_view() -> None:
    """A client in Python may parse an answer with the same model."""
    body = as_answered(TaskView[Report], Report(title="a"))
    assert TaskView[Report].model_validate(body).result == Report(title="a")


def test_the_shape_in_openapi() -> None:
    """OpenAPI has the type of the result."""
    app = FastAPI()
    app.get("/", response_model=TaskView[Report])(lambda: None)
    shapes = app.openapi()["components"]["schemas"]
    shape = shapes["TaskView_Report_"]
    assert shape["properties"]["result"] == {
        "anyOf": [{"$ref": "#/components/schemas/Report"}, {"type": "null"}]
    }
    assert {"task_id", "status", "result", "result_problem"} <= set(shape["required"])
