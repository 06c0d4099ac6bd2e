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
from tests.serving import serving

APP = "tests.framework.apps.limits:app"


@pytest.fixture
def client() -> Iterator[Any]:
    """Give a client of the app, which has been started."""
    with TestClient(app) as started:
        yield started


# -- limits


def test_over_the_rate_the_answer_is_429(client: Any) -> None:
    """An unhandled RateLimitExceededError answers 429, and when to come again.

    So it does in an app that is mounted, and for a function of the loop as for one of the pool.
    """
    for route in ("/limited", "/limited-sync"):
        assert client.get(route).status_code == 200
        for path in (route, f"/mounted{route}"):
            refused = client.get(path)
            assert (refused.status_code, refused.json()) == (429, {"detail": "Rate limit exceeded"})
            assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_with_a_full_queue_the_answer_is_503(client: Any) -> None:
    """An unhandled QueueFullError answers 503, and when to come again, also when mounted."""
    assert client.post("/fill").json() == {"pending": 1}
    for route in ("/submit", "/mounted/submit"):
        response = client.post(route)
        assert (response.status_code, response.json()) == (503, {"detail": "Task queue is full"})
        assert response.headers["retry-after"] == "1"


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
    monkeypatch.setattr("framework._records.ids._SPARE", [])
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

STRING, RECEIPT_MODEL = {"type": "string"}, {"$ref": "#/components/schemas/Receipt"}
ROUTES: dict[str, tuple[int, dict[str, str]]] = {
    "background-sync": (202, STRING),
    "background-async": (202, STRING),
    "awaited-sync": (200, RECEIPT_MODEL),
    "awaited-async": (200, RECEIPT_MODEL),
    "retried": (200, RECEIPT_MODEL),
}
"""The status of each, and what it answers: its id, or what the function returns."""

BODY = {"article": "pen", "pieces": 4}
RECEIPT = {"article": "7/pen", "total": 12.0}


def call(post: Callable[..., Any], route: str) -> Any:
    """Call an endpoint with everything that its function takes."""
    return post(f"/{route}/7", json=BODY, params={"price": 3.0}, headers={"x-user": "ann"})


def test_a_decorated_function_is_an_endpoint(client: Any) -> None:
    """Path, query and body reach the function; the answer is an id or the result.

    The dependency of a task gets the default of its header, since a task has no request.
    """
    for route, (status, _) in ROUTES.items():
        response = call(client.post, route)
        assert response.status_code == status, route
        answer = response.json()
        if status == 202:
            answer = client.get(f"/result/{answer}").json()
        user = "ann" if route == "retried" else "nobody"
        assert answer == RECEIPT | {"user": user}, route


def test_a_wrong_request_to_a_decorated_endpoint_is_422(client: Any) -> None:
    """FastAPI checks the arguments of a decorated function as it does any other's."""
    found = {}
    for route in ROUTES:
        response = client.post(f"/{route}/seven", json={"pieces": "many"})
        places = [error["loc"] for error in response.json()["detail"]]
        found[route] = response.status_code, places
    places = [["path", "shop"], ["body", "article"], ["body", "pieces"]]
    assert found == dict.fromkeys(ROUTES, (422, places))


def test_openapi_tells_of_a_decorated_endpoint(client: Any) -> None:
    """The schema names the function's parameters, neither args nor kwargs, and what it answers."""
    paths = client.get("/openapi.json").json()["paths"]
    for route, (status, answer) in ROUTES.items():
        operation = paths[f"/{route}/{{shop}}"]["post"]
        parameters = {(one["in"], one["name"]) for one in operation["parameters"]}
        # FastAPI solves the dependencies of what is no task, and those bring their parameters.
        of_request = {("header", "x-user")} if route == "retried" else set()
        assert parameters == {("path", "shop"), ("query", "price")} | of_request, route
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert body == {"$ref": "#/components/schemas/Order"}, route
        assert operation["description"].startswith("Order"), route
        schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
        schema.pop("title", None)
        assert schema == answer, route


@pytest.mark.extended("processes")
def test_a_real_server_answers() -> None:
    """Over a socket each decorated endpoint answers, and refusals have status and Retry-After."""
    with serving(APP) as server, httpx.Client(base_url=server.url) as client:
        statuses = {route: call(client.post, route).status_code for route in ROUTES}
        client.get("/limited")
        limited = client.get("/mounted/limited")
        client.post("/fill")
        full = client.post("/mounted/submit")
        alive = client.get("/openapi.json")
    assert statuses == {route: status for route, (status, _) in ROUTES.items()}
    assert limited.status_code == 429
    assert 1 <= int(limited.headers["retry-after"]) <= 60
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    assert alive.status_code == 200
