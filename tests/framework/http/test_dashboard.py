"""The page as it is sent, and the facts that it asks for."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import setup_async_framework
from framework.http import task_router

MOST = 60_000


def made() -> FastAPI:
    """Return an app with the routes."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router())
    return app


def test_the_page_is_small_and_complete() -> None:
    """The page is one file of less than 60 kB, and names no other one."""
    answer = TestClient(made()).get("/tasks/dashboard")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert len(answer.content) < MOST
    assert re.findall(r"""(?:src|href)=["']?(?!data:|#|\$)[^"'\s>]+""", answer.text) == []


def test_the_policy_allows_what_the_page_has() -> None:
    """Scripts and styles other than those of the page are refused, and so is a frame around it."""
    answer = TestClient(made()).get("/tasks/dashboard")
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_is_sent_once() -> None:
    """A browser that has the page is told so, and HEAD tells its length."""
    client = TestClient(made())
    first = client.get("/tasks/dashboard")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/tasks/dashboard", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head("/tasks/dashboard")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(first.content))


@pytest.mark.parametrize("path", ["list", "facts"])
def test_what_is_known_is_not_sent_again(path: str) -> None:
    """As long as nothing has changed, the page is told so instead of all facts again."""
    with TestClient(made()) as client:
        first = client.get(f"/tasks/dashboard/{path}")
        assert first.headers["cache-control"] == "no-store"
        known = {"If-None-Match": first.headers["etag"]}
        assert client.get(f"/tasks/dashboard/{path}", headers=known).status_code == 304


def test_the_page_is_not_in_the_schema() -> None:
    """OpenAPI has nothing of the page, which may change with each release."""
    assert not [path for path in made().openapi()["paths"] if "dashboard" in path]
