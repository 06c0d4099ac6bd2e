"""An app whose users sign in with a cookie, and see their own tasks alone."""

from __future__ import annotations

from typing import Annotated

from fastapi import Cookie, Depends, FastAPI, HTTPException, Request, Response

from framework import background_task, setup_async_framework
from framework.http import Accepted, task_router


def log_in(user: Annotated[str | None, Cookie()] = None) -> None:
    """Refuse strangers."""
    if user is None:
        raise HTTPException(401)


def owner_of(request: Request) -> str | None:
    """Return who has signed in."""
    return request.cookies.get("user")


app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router(owner=owner_of, dependencies=[Depends(log_in)]))


@app.get("/sign-in/{user}")
def sign_in(user: str, response: Response) -> str:
    """Remember a user."""
    response.set_cookie("user", user)
    return user


@app.get("/sign-out")
def sign_out(response: Response) -> str:
    """Forget the user."""
    response.delete_cookie("user")
    return "bye"


@background_task
def tell(secret: str) -> str:
    """Return a text that is its user's alone."""
    return secret


@app.get("/tell/{secret}", dependencies=[Depends(log_in)])
async def begin(secret: str) -> Accepted[str]:
    """Submit."""
    return tell.options(description=f"about {secret}")(secret)
