"""A mounted app uses its parent's framework; independent apps have one each."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import (
    FrameworkNotStartedError,
    TaskManager,
    background_task,
    get_task_manager,
    setup_async_framework,
)


@background_task
def whose() -> TaskManager:
    """Return the manager that is current inside the task."""
    return get_task_manager()


sub = FastAPI()  # no lifespan, because Starlette does not run it for mounted apps
app = FastAPI(lifespan=setup_async_framework)
app.mount("/sub", sub)
other = FastAPI(lifespan=setup_async_framework)


@sub.post("/tasks")
@other.post("/tasks")
async def start() -> str:
    """Start a task with the manager of the app that serves this request."""
    return whose()


def test_a_mounted_app_uses_its_parents_framework() -> None:
    """The parent's lifespan is enough."""
    with TestClient(app) as client:
        task_id = client.post("/sub/tasks").json()
        manager = app.state.task_manager
        assert manager.wait_result(task_id, timeout=60) is manager


def test_two_apps_have_a_framework_each() -> None:
    """Requests and tasks use their own app's manager; other code has to choose."""
    with TestClient(app) as client, TestClient(other) as other_client:
        for one, its_client, path in ((app, client, "/sub/tasks"), (other, other_client, "/tasks")):
            task_id = its_client.post(path).json()
            manager = one.state.task_manager
            assert manager.wait_result(task_id, timeout=60) is manager
        assert app.state.task_manager is not other.state.task_manager
        with pytest.raises(FrameworkNotStartedError) as caught:
            get_task_manager()
        assert caught.value.state == "ambiguous"
