"""Owners: users see their own tasks, and administrators all of them."""

from typing import Annotated

from fastapi import Cookie, Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.http import task_router

SESSIONS = {"session-of-ann": "ann", "session-of-bob": "bob", "session-of-root": "root"}


def current_user(session: Annotated[str, Cookie()] = "") -> str:
    """Find out who sends a request, and refuse strangers."""
    user = SESSIONS.get(session)
    if user is None:
        raise HTTPException(401, "Log in first")
    return user


def require_root(user: Annotated[str, Depends(current_user)]) -> None:
    """Refuse everybody but the administrator."""
    if user != "root":
        raise HTTPException(403)


app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router(owner=Depends(current_user)))
app.include_router(task_router(prefix="/admin/tasks", dependencies=[Depends(require_root)]))


@background_task
def make_report(title: str) -> str:
    """Make a report."""
    return title


@app.post("/reports", status_code=202, dependencies=[Depends(current_user)])
async def create(title: str) -> TaskId[str]:
    """Start to make a report, which belongs to who has sent the request."""
    return make_report(title)


@app.get("/reports/{task_id}")
async def show(task_id: str, user: Annotated[str, Depends(current_user)]) -> str:
    """Return the title of a user's own report."""
    task = await get_task_manager().get_task(task_id)
    if task is None or task.owner != user:
        raise HTTPException(404, "Task not found")
    return str(task.result)


def test_whose_tasks_are_seen() -> None:
    """A task of somebody else is answered as if it did not exist."""
    with TestClient(app) as client:

        def seen_by(user: str, path: str) -> int:
            return client.get(path, headers={"Cookie": f"session=session-of-{user}"}).status_code

        headers = {"Cookie": "session=session-of-ann"}
        task_id = client.post("/reports", params={"title": "Sales"}, headers=headers).json()
        assert seen_by("ann", f"/tasks/{task_id}?wait=10") == 200
        assert seen_by("bob", f"/tasks/{task_id}") == seen_by("bob", "/tasks/unknown") == 404
        assert seen_by("bob", f"/reports/{task_id}") == 404
        assert seen_by("ann", f"/reports/{task_id}") == 200
        assert seen_by("root", f"/admin/tasks/{task_id}") == 200
        assert seen_by("ann", f"/admin/tasks/{task_id}") == 403
        assert seen_by("nobody", f"/tasks/{task_id}") == 401
