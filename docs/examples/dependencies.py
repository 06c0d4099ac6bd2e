"""Tasks that get their database session from the dependency that the routes use."""

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from framework import TaskId, background_task, retry_task, setup_async_framework

Sessions = sessionmaker()


class Base(DeclarativeBase):
    """The tables."""


class User(Base):
    """A user and the number of letters that were sent."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    letters: Mapped[int] = mapped_column(default=0)


app = FastAPI(lifespan=setup_async_framework)


def get_session() -> Iterator[Session]:
    """Commit at the end, or roll back if there was an error."""
    with Sessions.begin() as session:
        yield session


class Post:
    """Delivers letters."""

    def deliver(self, text: str) -> str:
        """Deliver a letter."""
        return f"delivered: {text}"


@background_task
@retry_task(max_retries=2, retry_delay=0.1)
def write_to(
    user_id: int,
    session: Session = Depends(get_session),
    post: Post = Depends(Post),
) -> str:
    """Write to a user; each attempt has a session of its own."""
    user = session.get_one(User, user_id)
    user.letters += 1
    return post.deliver(f"dear {user.name}")


SessionDep = Annotated[Session, Depends(get_session)]


@app.post("/letters/{name}", status_code=202)
def start_letter(name: str, session: SessionDep) -> TaskId[str]:
    """Look the user up here, and pass the id to the task."""
    user = session.query(User).filter_by(name=name).one()
    return write_to(user.id)


@background_task
def count_letters(session: SessionDep = Depends()) -> int:
    """Count the letters; the annotation is the one of the routes."""
    return sum(user.letters for user in session.query(User))


class SilentPost(Post):
    """Delivers nothing, for tests."""

    def deliver(self, text: str) -> str:
        """Do not deliver a letter."""
        return f"not delivered: {text}"


@contextmanager
def a_user(name: str) -> Iterator[int]:
    """Make a database with one user, for a test."""
    with TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/users.db")
        Base.metadata.create_all(engine)
        Sessions.configure(bind=engine)
        with Sessions.begin() as session:
            session.add(User(id=1, name=name))
        yield 1
        engine.dispose()


def test_a_letter() -> None:
    """The task uses the session of its own, and the override of the app."""
    app.dependency_overrides[Post] = SilentPost
    with a_user("ann"), TestClient(app) as client:
        manager = app.state.task_manager
        task_id = client.post("/letters/ann").json()
        assert manager.wait_result(task_id, timeout=60) == "not delivered: dear ann"
        counted = manager.submit_nowait(count_letters)
        assert manager.wait_result(counted, timeout=60) == 1


def test_the_function_itself() -> None:
    """Call the undecorated function with objects of your own."""
    with a_user("bob") as user_id, Sessions() as session:
        assert write_to.fn(user_id, session, SilentPost()) == "not delivered: dear bob"
