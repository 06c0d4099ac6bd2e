"""The sign-up of a shop, moved from BackgroundTasks."""

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from framework import TaskManager, background_task, retry_task, setup_async_framework

app = FastAPI(lifespan=setup_async_framework)
mails: list[str] = []
log: list[str] = []


@background_task
@retry_task(max_retries=2, exceptions=(ConnectionError,), retry_delay=0.01)
def send_mail(to: str) -> None:
    """Send a mail."""
    if to.endswith(".invalid"):
        raise ConnectionError(f"no server takes mail for {to}")
    mails.append(to)


@background_task
def write_log(line: str) -> None:
    """Write a line."""
    log.append(line)


def campaign(ref: str = "") -> None:
    """Note where somebody comes from."""
    if ref:
        write_log(f"came by {ref}")


@app.post("/users/{address}", dependencies=[Depends(campaign)])
async def register(address: str) -> dict[str, str]:
    """Register somebody, and send a mail beside the answer."""
    send_mail(address)
    write_log(f"{address} has registered")
    return {"message": "we have sent you a mail"}


pytestmark = pytest.mark.task_modes("auto", on=("memory", "sqlite"))


def test_registering(task_manager: TaskManager) -> None:
    """The answer is the same; when the app has stopped, all that it has started has run."""
    mails.clear()
    log.clear()
    with TestClient(app) as client:
        answer = client.post("/users/ann@a.org", params={"ref": "spring"})
    assert answer.json() == {"message": "we have sent you a mail"}
    assert mails == ["ann@a.org"]
    assert sorted(log) == ["ann@a.org has registered", "came by spring"]


def test_a_mail_that_fails(task_manager: TaskManager) -> None:
    """A mail is tried three times, its task says why it failed, and the line is written."""
    log.clear()
    with TestClient(app) as client:
        assert client.post("/users/bob@b.invalid").status_code == 200
        (task_id,) = (
            task_id
            for task_id, task in task_manager.get_all_tasks().items()
            if task["name"].endswith("send_mail")
        )
        with pytest.raises(ConnectionError):
            task_manager.wait_result(task_id, timeout=60)
        assert task_manager.get_all_tasks()[task_id]["attempts"] == 3
    assert log == ["bob@b.invalid has registered"]
