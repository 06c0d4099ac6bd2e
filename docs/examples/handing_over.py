"""What to pass to a task instead of objects that belong to the request."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar

from fastapi import Depends, FastAPI, Request, UploadFile
from fastapi.testclient import TestClient

from framework import background_task, setup_async_framework


class Session:
    """Stands for a database session, such as SQLAlchemy's."""

    names: ClassVar = {7: "ann"}

    def __init__(self) -> None:
        self.is_open = True

    def name_of(self, user_id: int) -> str:
        """Look a user up."""
        assert self.is_open, "used after it was closed"
        return self.names[user_id]


@contextmanager
def open_session() -> Iterator[Session]:
    """Open a session and close it at the end."""
    session = Session()
    try:
        yield session
    finally:
        session.is_open = False


def get_session() -> Iterator[Session]:
    """Open a session for a route; FastAPI closes it with the request."""
    with open_session() as session:
        yield session


class Mailer:
    """Stands for a client that the app keeps open."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.users = 0

    def close(self) -> None:
        """Close its connections."""


async def get_mailer(request: Request) -> AsyncIterator[Mailer]:
    """Hand on what the app has made; a task may have it."""
    mailer = request.app.state.mailer
    mailer.users += 1
    try:
        yield request.app.state.mailer
    finally:
        mailer.users -= 1


app = FastAPI(lifespan=setup_async_framework)
app.state.mailer = Mailer()


@background_task
def greet(user_id: int, language: str) -> str:
    """Greet a user; the task opens its own session."""
    with open_session() as session:
        name = session.name_of(user_id)
    return f"hallo {name}" if language.startswith("de") else f"hello {name}"


@app.post("/greetings/{user_id}", status_code=202)
def start_greeting(
    user_id: int, request: Request, session: Annotated[Session, Depends(get_session)]
) -> dict[str, str]:
    """Use the session here, and pass the id to the task."""
    assert session.name_of(user_id)
    return {"task_id": greet(user_id, request.headers.get("accept-language", ""))}


@background_task
def send(mailer: Mailer, text: str) -> None:
    """Send a mail."""
    mailer.sent.append(text)


@app.post("/mails", status_code=202)
def start_mail(text: str, mailer: Annotated[Mailer, Depends(get_mailer)]) -> dict[str, str]:
    """Pass the mailer, which outlives the request."""
    return {"task_id": send(mailer, text)}


@app.post("/mistakes")
def make_mistakes(file: UploadFile, session: Annotated[Session, Depends(get_session)]) -> list[str]:
    """Pass what is closed with the request, and get the errors."""
    found = []
    for given in (file, session):
        try:
            send(given, "hi")  # type: ignore[arg-type]  # on purpose
        except TypeError as error:
            found.append(str(error))
    return found


@background_task
def count_lines(path: Path) -> int:
    """Count the lines of a file and remove it."""
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    finally:
        path.unlink()


@app.post("/files", status_code=202)
def take_file(file: UploadFile) -> dict[str, str]:
    """Copy the uploaded file, because FastAPI closes it with the request."""
    with tempfile.NamedTemporaryFile(delete=False) as copy:
        shutil.copyfileobj(file.file, copy)
    return {"task_id": count_lines(Path(copy.name))}


def test_what_is_refused() -> None:
    """The upload and the session of the request are refused; the app's mailer is not."""
    with TestClient(app) as client:
        mistakes = client.post("/mistakes", files={"file": b"data"}).json()
        assert "is an UploadFile" in mistakes[0]
        assert "was yielded by the dependency get_session" in mistakes[1]
        task_id = client.post("/mails", params={"text": "hi"}).json()["task_id"]
        app.state.task_manager.wait_result(task_id, timeout=60)
        assert app.state.mailer.sent == ["hi"]


def test_a_session_of_its_own() -> None:
    """The task can look up the user although the request's session is closed."""
    with TestClient(app) as client:
        answer = client.post("/greetings/7", headers={"accept-language": "de"})
        manager = app.state.task_manager
        assert manager.wait_result(answer.json()["task_id"], timeout=60) == "hallo ann"


def test_a_file_that_stays() -> None:
    """The task reads the copy of the upload and removes it."""
    with TestClient(app) as client:
        answer = client.post("/files", files={"file": b"one\ntwo\n"})
        manager = app.state.task_manager
        assert manager.wait_result(answer.json()["task_id"], timeout=60) == 2
