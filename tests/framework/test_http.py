"""What an app answers by itself, ids nobody can guess, and tasks that are endpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from framework import TaskManager
from tests.framework.apps.limits import app
from tests.framework.clients import TestClient
from tests.serving import Server, serving

APP = "tests.framework.apps.limits:app"


@pytest.fixture
def client() -> Iterator[Any]:
    """Give a client of the app, which has been started."""
    with TestClient(app) as started:
        yield started


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Give the app on a real uvicorn."""
    with serving(APP) as running:
        yield running


# -- limits


@pytest.mark.parametrize("prefix", ["", "/mounted"])
@pytest.mark.parametrize("route", ["/limited", "/limited-sync"])
def test_over_the_rate_the_answer_is_429(client: Any, prefix: str, route: str) -> None:
    """An unhandled RateLimitExceededError answers 429, and when to come again."""
    first, second = client.get(prefix + route), client.get(prefix + route)
    assert first.status_code == 200
    assert (second.status_code, second.json()) == (429, {"detail": "Rate limit exceeded"})
    assert 55 <= int(second.headers["retry-after"]) <= 60


@pytest.mark.parametrize("prefix", ["", "/mounted"])
def test_with_a_full_queue_the_answer_is_503(client: Any, prefix: str) -> None:
    """An unhandled QueueFullError answers 503, and when to come again."""
    assert client.post("/fill").json() == {"pending": 1}
    response = client.post(f"{prefix}/submit")
    assert (response.status_code, response.json()) == (503, {"detail": "Task queue is full"})
    assert response.headers["retry-after"] == "1"


def test_a_real_server_answers_429_and_503() -> None:
    """Over a socket both refusals arrive with status and Retry-After, and the server lives."""
    with serving(APP) as server, httpx.Client(base_url=server.url) as client:
        client.get("/limited")
        limited = client.get("/mounted/limited")
        client.post("/fill")
        full = client.post("/mounted/submit")
        alive = client.get("/openapi.json")
    assert limited.status_code == 429
    assert 55 <= int(limited.headers["retry-after"]) <= 60
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    assert alive.status_code == 200


# -- ids


def test_ids_are_128_bits_of_the_systems_randomness(
    task_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are what 16 bytes of os.urandom each are in hexadecimal, read for many at once."""
    asked: list[bytes] = []

    def urandom(size: int) -> bytes:
        asked.append(real(size))
        return asked[-1]

    real = os.urandom
    monkeypatch.setattr("framework._tasks.ids._SPARE", [])
    monkeypatch.setattr(os, "urandom", urandom)
    ids = {task_manager.new_id() for _ in range(256)}
    monkeypatch.undo()
    (given,) = asked
    assert ids == {given[at : at + 16].hex() for at in range(0, len(given), 16)}


def test_every_bit_of_an_id_varies(task_manager: TaskManager) -> None:
    """Among 2,000 ids, all different, each of the 128 bits is set in about half of them."""
    ids = [int(task_manager.new_id(), 16) for _ in range(2_000)]
    assert len(set(ids)) == 2_000
    set_in = [sum(one >> bit & 1 for one in ids) for bit in range(128)]
    # Eleven standard deviations: chance does not get there.
    assert min(set_in) > 750
    assert max(set_in) < 1_250


def test_an_answered_id_is_32_hexadecimal_digits(client: Any) -> None:
    """The id that a route answers is a plain string of JSON."""
    task_id = client.post("/submit").json()
    assert len(task_id) == 32
    assert int(task_id, 16) >= 0


# -- decorated functions as endpoints

ROUTES = ["background-sync", "background-async", "awaited-sync", "awaited-async", "retried"]
BODY = {"article": "pen", "pieces": 4}
RECEIPT = {"article": "7/pen", "total": 12.0}

each_route = pytest.mark.parametrize("route", ROUTES)


def call(post: Callable[..., Any], route: str) -> Any:
    """Call an endpoint with everything that its function takes."""
    return post(f"/{route}/7", json=BODY, params={"price": 3.0}, headers={"x-user": "ann"})


@each_route
def test_a_decorated_function_is_an_endpoint(client: Any, route: str) -> None:
    """Path, query and body reach the function; the answer is an id or the result.

    The dependency of a task gets the default of its header, since a task has no request.
    """
    response = call(client.post, route)
    if route.startswith("background"):
        assert response.status_code == 202
        answer = client.get(f"/result/{response.json()}").json()
    else:
        assert response.status_code == 200
        answer = response.json()
    assert answer == RECEIPT | {"user": "ann" if route == "retried" else "nobody"}


@each_route
def test_a_wrong_request_to_a_decorated_endpoint_is_422(client: Any, route: str) -> None:
    """FastAPI checks the arguments of a decorated function as it does any other's."""
    response = client.post(f"/{route}/seven", json={"pieces": "many"})
    assert response.status_code == 422
    places = [error["loc"] for error in response.json()["detail"]]
    assert places == [["path", "shop"], ["body", "article"], ["body", "pieces"]]


@each_route
def test_openapi_tells_the_parameters_of_a_decorated_endpoint(client: Any, route: str) -> None:
    """The schema names the function's parameters, and neither args nor kwargs."""
    operation = client.get("/openapi.json").json()["paths"][f"/{route}/{{shop}}"]["post"]
    parameters = {(one["in"], one["name"]) for one in operation["parameters"]}
    # FastAPI solves the dependencies of what is no task, and those bring their parameters.
    of_request = {("header", "x-user")} if route == "retried" else set()
    assert parameters == {("path", "shop"), ("query", "price")} | of_request
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Order"}
    assert operation["description"].startswith("Order")


@pytest.mark.parametrize(
    ("route", "status", "expected"),
    [
        ("background-sync", "202", {"type": "string"}),
        ("background-async", "202", {"type": "string"}),
        ("awaited-sync", "200", {"$ref": "#/components/schemas/Receipt"}),
        ("awaited-async", "200", {"$ref": "#/components/schemas/Receipt"}),
        ("retried", "200", {"$ref": "#/components/schemas/Receipt"}),
    ],
)
def test_openapi_tells_what_a_decorated_endpoint_answers(
    client: Any, route: str, status: str, expected: dict[str, str]
) -> None:
    """A background task answers a string, its id; every other one what the function returns."""
    operation = client.get("/openapi.json").json()["paths"][f"/{route}/{{shop}}"]["post"]
    schema = operation["responses"][status]["content"]["application/json"]["schema"]
    schema.pop("title", None)
    assert schema == expected


@each_route
def test_a_decorated_endpoint_works_over_a_socket(server: Server, route: str) -> None:
    """A real server accepts each kind of decorated endpoint."""
    with httpx.Client(base_url=server.url) as client:
        response = call(client.post, route)
        assert response.status_code == (202 if route.startswith("background") else 200)
