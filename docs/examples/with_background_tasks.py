"""The sign-up of a shop with BackgroundTasks: a mail, and lines in a log."""

from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.testclient import TestClient

app = FastAPI()
mails: list[str] = []
log: list[str] = []


def send_mail(to: str) -> None:
    """Send a mail."""
    if to.endswith(".invalid"):
        raise ConnectionError(f"no server takes mail for {to}")
    mails.append(to)


def write_log(line: str) -> None:
    """Write a line."""
    log.append(line)


def campaign(tasks: BackgroundTasks, ref: str = "") -> None:
    """Note where somebody comes from."""
    if ref:
        tasks.add_task(write_log, f"came by {ref}")


@app.post("/users/{address}", dependencies=[Depends(campaign)])
async def register(address: str, tasks: BackgroundTasks) -> dict[str, str]:
    """Register somebody, and send a mail after the answer."""
    tasks.add_task(send_mail, address)
    tasks.add_task(write_log, f"{address} has registered")
    return {"message": "we have sent you a mail"}


def test_registering() -> None:
    """The answer comes first, then the mail and both lines."""
    mails.clear()
    log.clear()
    answer = TestClient(app).post("/users/ann@a.org", params={"ref": "spring"})
    assert answer.json() == {"message": "we have sent you a mail"}
    assert mails == ["ann@a.org"]
    assert log == ["came by spring", "ann@a.org has registered"]


def test_a_mail_that_fails() -> None:
    """Nobody learns of the error but the log of the server, and what comes after it is skipped."""
    log.clear()
    client = TestClient(app, raise_server_exceptions=False)
    assert client.post("/users/bob@b.invalid").status_code == 200
    assert log == []
