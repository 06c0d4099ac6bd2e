"""Each snippet of the original specification, served as it stands and called over HTTP.

The snippets are stored in `specification/`, word for word but for the name of the package,
with what they leave open around them.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import importlib
import json
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import httpx
import pytest
import uvicorn

from framework import get_task_manager
from tests.framework.clients import TestClient
from tests.patience import PATIENCE
from tests.serving import Server, serving

FOLDER = Path(__file__).with_name("specification")
IN_ORDER = [
    "initialise",
    "initialise_with_workers",
    "background",
    "awaited",
    "throttled",
    "retried",
    "status",
    "listing",
    "custom_task",
    "pool_stats",
    "custom_pool",
    "periodic_cleanup",
]
DIGEST = "80d82f9a914684667c61f9eca8872fcae79f444953222bc20430e1eba891c254"


@contextmanager
def served(snippet: str) -> Iterator[httpx.Client]:
    """Give a client of one snippet's app on a real uvicorn."""
    with (
        serving(f"tests.framework.specification.{snippet}:app") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        yield client


def test_the_snippets_are_those_of_the_specification() -> None:
    """What is tested here is the specification's own text, but for the package's name."""
    digest = hashlib.sha256()
    for name in IN_ORDER:
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        _, _, text = text.partition("# --- the snippet, word for word ---\n")
        text, _, _ = text.partition("# --- the end of the snippet ---\n")
        text = text.replace("from framework import", "from knowledge_api.framework import")
        digest.update(text.encode())
    assert digest.hexdigest() == DIGEST
    assert sorted(IN_ORDER) == sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.extended("processes")
def test_initialise() -> None:
    """FastAPI(lifespan=setup_async_framework) runs the framework."""
    with served("initialise") as client:
        assert client.get("/probe").json() == 0


@pytest.mark.extended("processes")
def test_initialise_with_workers() -> None:
    """Entered in a lifespan of the user's, it has the workers that were asked for."""
    with served("initialise_with_workers") as client:
        assert client.get("/probe").json() == 10


@pytest.mark.extended("processes")
def test_background_task() -> None:
    """The route answers an id at once, under which the result arrives."""
    with served("background") as client:
        answer = client.post("/process", params={"data_id": "7"}).json()
        assert answer == {"task_id": answer["task_id"], "status": "processing"}
        done = client.get("/probe", params={"task_id": answer["task_id"]}).json()
    assert done == {
        "result": {"status": "completed", "data_id": "7"},
        "description": "数据处理任务",
    }


@pytest.mark.extended("processes")
def test_async_task() -> None:
    """The route awaits the result and answers it."""
    with served("awaited") as client:
        assert client.get("/data/7").json() == {"user_id": "7", "data": "..."}


@pytest.mark.extended("processes")
def test_throttled_task() -> None:
    """Five calls a minute succeed, and the sixth answers 429 by itself."""
    with served("throttled") as client:
        answers = [client.get("/probe") for _ in range(6)]
    assert [one.json() for one in answers[:5]] == [{"status": "success"}] * 5
    assert answers[5].status_code == 429


@pytest.mark.extended("processes")
def test_retry_task() -> None:
    """A retried function that succeeds is called as if it were not retried."""
    with served("retried") as client:
        assert client.get("/probe").json() == {"status": "success"}


@pytest.mark.extended("processes")
def test_task_status() -> None:
    """The route shows a running task without, a completed one with its result, else 404."""
    with served("status") as client:
        task_id = client.post("/start").json()
        running = client.get(f"/tasks/{task_id}").json()
        client.post(f"/finish/{task_id}")
        done = client.get(f"/tasks/{task_id}").json()
        unknown = client.get("/tasks/unknown")
    assert running["status"] in {"pending", "running"}
    assert running["result"] is None
    assert (done["status"], done["result"]) == ("completed", "done")
    expected = {
        "task_id", "description", "status", "created_at", "start_time", "end_time",
        "duration", "has_error", "error_message",
    }  # fmt: skip
    assert expected <= done.keys()
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Task not found"})


@pytest.mark.extended("processes")
def test_list_of_all_tasks() -> None:
    """The route, a sync one, answers every task by its id."""
    with served("listing") as client:
        ids = {client.post("/start").json() for _ in range(3)}
        listed = client.get("/tasks").json()
    assert listed.keys() == ids
    assert {task["status"] for task in listed.values()} == {"completed"}


@pytest.mark.extended("processes")
def test_custom_task() -> None:
    """A function submitted by hand gets its arguments, and the task its description."""
    with served("custom_task") as client:
        parameters = {"arg1": 1, "arg2": 2, "option": "x"}
        task_id = client.post("/custom-task", json=parameters).json()["task_id"]
        done = client.get("/probe", params={"task_id": task_id}).json()
    assert done == {"result": {"sum": 3, "option": "x"}, "description": "Custom task"}


@pytest.mark.extended("processes")
def test_pool_stats() -> None:
    """The route answers the pool's figures as JSON."""
    with served("pool_stats") as client:
        figures = client.get("/pool-stats").json()
    assert (figures["queued"], figures["abandoned"]) == (0, 0)
    assert figures["max_workers"] >= 1


@pytest.mark.extended("processes")
def test_custom_pool() -> None:
    """A custom pool, handed to the framework, is where the tasks run."""
    with served("custom_pool") as client:
        answer = client.get("/probe").json()
    assert answer["max_workers"] == 20
    assert answer["thread"].startswith("custom-pool-")


@pytest.mark.extended("processes")
def test_periodic_cleanup_is_started() -> None:
    """The start-up handler, which FastAPI skips beside a lifespan, has started the clean-up."""
    with served("periodic_cleanup") as client:
        assert "periodic_cleanup" in client.get("/probe").json()


def test_periodic_cleanup_cleans_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After its hour the clean-up asks the manager of its app, prints the number and goes on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        name = "tests.framework.specification.periodic_cleanup"
        module = importlib.import_module(name)
    hours = [asyncio.Event(), asyncio.Event()]
    asked: list[float] = []
    slept = threading.Event()

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        if len(asked) == 2:
            slept.set()
        await hours[len(asked) - 1].wait()

    patched = SimpleNamespace(create_task=asyncio.create_task, sleep=sleep)
    monkeypatch.setattr(module, "asyncio", patched)
    with TestClient(module.app) as client:
        manager = module.app.state.task_manager
        manager.wait_result(manager.submit_nowait(int))
        assert client.portal is not None
        client.portal.call(hours[0].set)
        assert slept.wait(PATIENCE)
        assert manager is get_task_manager()
        assert manager.get_stats()["kept"] == 1
    assert asked == [3600, 3600]
    assert "Removed 0 completed tasks\n" in capsys.readouterr().out


# -- the complete example


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """Serve the example, with the ends of its tasks in the log, so that they can be awaited."""
    settings: dict[str, Any] = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    settings["loggers"]["asyncframe"] = {"handlers": ["default"], "level": "DEBUG"}
    file = tmp_path_factory.mktemp("example") / "logging.json"
    file.write_text(json.dumps(settings))
    options = ("--log-config", str(file), "--timeout-graceful-shutdown", "2")
    with (
        serving("framework.example:app", *options) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        yield server, client


Example: TypeAlias = tuple[Server, httpx.Client]


def ended(example: Example, task_id: str) -> dict[str, Any]:
    """Wait until the log says that a task has ended, and return what the app shows of it."""
    server, client = example
    server.wait_for(f"task {task_id} (")
    shown: dict[str, Any] = client.get(f"/tasks/{task_id}").json()
    return shown


@pytest.mark.extended("processes")
def test_example_process(example: Example) -> None:
    """POST /process answers 202, and where to find the task's progress and result."""
    response = example[1].post("/process", params={"data_id": "7"})
    shown = ended(example, response.json()["task_id"])
    assert response.status_code == 202
    assert example[1].get(response.headers["location"]).json() == shown
    assert shown["result"] == {"status": "completed", "data_id": "7"}
    assert (shown["progress"], shown["progress_message"]) == (1.0, "part 4 of 4")


@pytest.mark.extended("processes")
def test_example_reports(example: Example) -> None:
    """POST /reports, a decorated endpoint, answers 202 and a bare id."""
    response = example[1].post("/reports", params={"title": "a"})
    assert response.status_code == 202
    assert ended(example, response.json())["result"] == {"title": "a", "report": "..."}


@pytest.mark.extended("processes")
def test_example_welcome(example: Example) -> None:
    """POST /users/{user}/welcome starts a task that gets its mail server as a dependency."""
    shown = ended(example, example[1].post("/users/ann/welcome").json()["task_id"])
    assert shown["result"] == "Welcome, ann!"


@pytest.mark.extended("processes")
def test_example_data(example: Example) -> None:
    """GET /data/{user_id} answers what the awaited task returned."""
    assert example[1].get("/data/7").json() == {"user_id": "7", "data": "..."}


@pytest.mark.extended("processes")
def test_example_limited(example: Example) -> None:
    """GET /limited answers five times, and then 429 with Retry-After."""
    answers = [example[1].get("/limited") for _ in range(6)]
    assert [one.status_code for one in answers] == [200] * 5 + [429]
    assert 1 <= int(answers[5].headers["retry-after"]) <= 60


@pytest.mark.extended("processes")
def test_example_unreliable(example: Example) -> None:
    """POST /unreliable succeeds with its third attempt."""
    shown = ended(example, example[1].post("/unreliable").json()["task_id"])
    assert shown["attempts"] == 3
    assert shown["result"] == {"status": "success", "attempts": 3}


@pytest.mark.extended("processes")
def test_example_custom_task_and_list(example: Example) -> None:
    """POST /custom-task runs an undecorated function, and GET /tasks lists it."""
    parameters = {"arg1": 1, "arg2": 2, "option": "x"}
    task_id = example[1].post("/custom-task", json=parameters).json()["task_id"]
    shown = ended(example, task_id)
    assert shown["result"] == {"sum": 3, "option": "x"}
    (listed,) = (
        task for task in example[1].get("/tasks").json()["tasks"] if task["task_id"] == task_id
    )
    assert listed.items() <= shown.items()


@pytest.mark.extended("processes")
def test_example_cancel(example: Example) -> None:
    """DELETE /tasks/{task_id} cancels one that is delayed."""
    parameters = {"arg1": 1, "arg2": 2, "delay": 3_600}
    task_id = example[1].post("/custom-task", json=parameters).json()["task_id"]
    headers = {"X-Requested-With": "a test"}
    cancelled = example[1].delete(f"/tasks/{task_id}", headers=headers).json()
    assert (cancelled["cancelled"], cancelled["status"]) == (True, "cancelled")
    assert ended(example, task_id)["status"] == "cancelled"


@pytest.mark.extended("processes")
def test_example_unknown_task(example: Example) -> None:
    """GET /tasks/{task_id} answers 404 for an id that nobody knows."""
    response = example[1].get("/tasks/unknown")
    assert (response.status_code, response.json()) == (404, {"detail": "Task not found"})


@pytest.mark.extended("processes")
def test_example_figures(example: Example) -> None:
    """GET /tasks/stats and GET /pool-stats answer figures that add up."""
    stats, pool = (example[1].get(route).json() for route in ("/tasks/stats", "/pool-stats"))
    assert stats.pop("submitted") == sum(stats.values())
    assert pool["max_workers"] == 10


@pytest.mark.extended("processes")
def test_example_cleanup(example: Example) -> None:
    """POST /cleanup forgets what is old enough, and says how much it was."""
    shown = ended(example, example[1].post("/reports", params={"title": "a"}).json())
    assert shown["status"] == "completed"
    assert example[1].post("/cleanup", params={"max_age": 3_600}).json() == {"removed": 0}
    assert example[1].post("/cleanup", params={"max_age": 0}).json()["removed"] >= 1
    assert example[1].get(f"/tasks/{shown['task_id']}").status_code == 404


@pytest.mark.extended("processes")
def test_no_route_of_the_example_is_left_out(example: Example) -> None:
    """The routes tested above, and those of the router, are all that there are."""
    paths = example[1].get("/openapi.json").json()["paths"]
    assert {
        (method, path) for path, methods in paths.items() for method in methods
    } - ROUTES_OF_TASKS == {
        ("post", "/process"),
        ("post", "/reports"),
        ("post", "/users/{user}/welcome"),
        ("get", "/data/{user_id}"),
        ("get", "/limited"),
        ("post", "/unreliable"),
        ("get", "/pool-stats"),
        ("post", "/cleanup"),
        ("post", "/custom-task"),
    }


ROUTES_OF_TASKS = {
    ("get", "/tasks"),
    ("get", "/tasks/stats"),
    ("get", "/tasks/{task_id}"),
    ("get", "/tasks/{task_id}/events"),
    ("get", "/tasks/{task_id}/steps"),
    ("delete", "/tasks/{task_id}"),
    ("post", "/tasks/{task_id}/run-again"),
    ("post", "/tasks/{task_id}/messages/approval"),
}


@pytest.mark.extended("processes")
def test_example_start_page(example: Example) -> None:
    """GET / leads to the page with all tasks, whose buttons start routes that exist."""
    response = example[1].get("/", follow_redirects=True)
    assert (response.status_code, response.url.path) == (200, "/tasks/dashboard")
    assert response.headers["content-type"].startswith("text/html")
    buttons = example[1].get("/tasks/dashboard/facts").json()["buttons"]
    assert len(buttons) == 7
    assert {example[1].get(button["path"]).status_code for button in buttons} == {405}


@pytest.mark.extended("processes")
def test_example_health(example: Example) -> None:
    """GET /health/ready answers that requests may be sent."""
    assert example[1].get("/health/ready").json() == {"status": "ready", "problems": {}}


@pytest.mark.extended("processes")
def test_example_waits_for_the_end(example: Example) -> None:
    """GET /tasks/{task_id}?wait= answers once the task has ended, so nobody need ask twice."""
    for start in ("/process?data_id=9", "/unreliable"):
        task_id = example[1].post(start).json()["task_id"]
        answer = example[1].get(f"/tasks/{task_id}", params={"wait": 60}, timeout=PATIENCE)
        assert answer.json()["status"] == "completed", start


@pytest.mark.extended("processes")
def test_example_waits_within_bounds(example: Example) -> None:
    """GET /tasks/{task_id}?wait= answers 422 to a number that is out of range, or none."""
    waits = ("-1", "61", "nan", "soon")
    answers = [example[1].get("/tasks/unknown", params={"wait": wait}) for wait in waits]
    assert [answer.status_code for answer in answers] == [422] * len(waits)


@pytest.mark.extended("processes")
def test_example_refuses_what_json_has_not(example: Example) -> None:
    """POST /custom-task answers 422 to numbers and texts that no task can have."""
    headers = {"content-type": "application/json"}
    for body in (
        '{"arg1": 1, "arg2": 2, "delay": Infinity}',
        '{"arg1": 1, "arg2": 2, "delay": NaN}',
        '{"arg1": 1, "arg2": 2, "delay": 1e999}',
        '{"arg1": 1, "arg2": 2, "delay": 86401}',
        '{"arg1": 1, "arg2": 2, "delay": false}',
        '{"arg1": 1, "arg2": NaN}',
        '{"arg1": 1, "arg2": 4503599627370497}',
        "[Infinity]",
    ):
        refused = example[1].post("/custom-task", content=body, headers=headers)
        assert refused.status_code == 422, body
        assert [sorted(one) for one in refused.json()["detail"]] == [["loc", "msg", "type"]], body


@pytest.mark.extended("processes")
def test_example_refuses_what_is_no_text(example: Example) -> None:
    """POST /custom-task answers 400 to bytes, as OpenAPI says."""
    headers = {"content-type": "application/json"}
    refused = example[1].post("/custom-task", content=b"\xff\xfe\xfd", headers=headers)
    assert (refused.status_code, list(refused.json())) == (400, ["detail"])


@pytest.mark.extended("processes")
def test_example_open_api(example: Example) -> None:
    """Each route has a tag that is described, and its error answers are listed."""
    described = example[1].get("/openapi.json").json()
    tags = {tag["name"] for tag in described["tags"]}
    routes = [route for path in described["paths"].values() for route in path.values()]
    assert all(set(route["tags"]) <= tags and route["tags"] for route in routes)
    assert {status for route in routes for status in route["responses"]} == {
        "200", "202", "204", "400", "403", "404", "409", "413", "422", "429", "503", "504"
    }  # fmt: skip
