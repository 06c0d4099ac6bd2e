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


@pytest.mark.parametrize(
    ("model", "result", "shown"),
    [
        (Report, Report(title="a"), {"title": "a", "score": 1.0}),
        (Report, Article(title="a"), {"title": "a", "score": 1.0}),
        (Report, {"title": "a"}, {"title": "a", "score": 1.0}),
        (Report, Draft("a"), {"title": "a", "score": 1.0}),
        (Report, Row(), {"title": "of a row", "score": 2.0}),
        (Aliased, Aliased.model_validate({"name": "a"}), {"headline": "a"}),
        (list[int], {1}, [1]),
        (list[int], list(range(150_000)), list(range(150_000))),
        (dict[str, Any], cycle(), {"self": "<cycle: dict>"}),
        (dict[str, Any], {"b": b"\xff"}, {"b": "<bytes: 1 bytes>"}),
        (float, 1.5, 1.5),
        (Report, None, None),
    ],
    ids=[
        "a model",
        "more than the model",
        "a dict",
        "a dataclass",
        "a row",
        "aliases",
        "a set",
        "many",
        "a cycle",
        "bytes inside",
        "a float",
        "nothing",
    ],
)
def test_results_of_a_type(model: Any, result: Any, shown: Any) -> None:
    """A result is shown as the type that the route promises, and no more of it."""
    body = as_answered(TaskView[model], result)
    assert (body["result"], body["result_problem"]) == (shown, None)


@pytest.mark.parametrize(
    ("model", "result", "kind"),
    [
        (Report, 5, "int"),
        (Report, {"secret": "hidden"}, "dict"),
        (Report, Report(title="a", score=math.nan), "Report"),
        (float, math.inf, "float"),
        (str, b"\xff", "bytes"),
        (str, Unshowable(), "Unshowable"),
        (Report, Unshowable(), "Unshowable"),
        (Unserializable, Unserializable(title="hidden"), "Unserializable"),
        (list[int], (number for number in [1]), "generator"),
        (dict[str, Any], Row(), "Row"),
    ],
    ids=[
        "an int",
        "a wrong dict",
        "nan inside",
        "infinity",
        "bytes",
        "no repr, no text",
        "no repr",
        "a bad serializer",
        "a generator",
        "a row",
    ],
)
def test_results_of_another_type(model: Any, result: Any, kind: str) -> None:
    """A result that does not fit is left out, and its type alone is told."""
    body = as_answered(TaskView[model], result)
    assert body["status"] == "completed"
    assert body["result"] is None
    said = f"its type, {kind}, is not what this response shows"
    assert body["result_problem"] == said
    assert "hidden" not in json.dumps(body)


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


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (math.nan, "<nan>"),
        (-math.inf, "<-inf>"),
        (b"\xff", "<bytes: 1 bytes>"),
        ({"b", "a"}, None),
        (cycle(), {"self": "<cycle: dict>"}),
        ("\ud800", "?"),
        (10**5_000, "<int: 16610 bits>"),
        (Unshowable(), "<Unshowable whose repr raises LookupError>"),
        (numbers(), None),
        (Article(title="a", score=math.nan), {"title": "a", "score": "<nan>", "secret": "hidden"}),
        ("x" * 2_000_000, "x" * 2_000_000),
        ({"\ud800": {1: math.inf}}, {"?": {"1": "<inf>"}}),
    ],
    ids=[
        "nan",
        "infinity",
        "bytes",
        "a set",
        "a cycle",
        "a surrogate",
        "a long int",
        "no repr",
        "a generator",
        "a model",
        "a long text",
        "keys",
    ],
)
@pytest.mark.parametrize("model", [TaskView, TaskView[Any]])
def test_results_of_any_type(model: Any, result: Any, shown: Any) -> None:
    """Every result is shown as strict JSON; what JSON does not have is replaced by a text."""
    body = as_answered(model, result)
    assert body["result_problem"] is None
    if shown is not None:
        assert body["result"] == shown


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
