"""The number of a server's workers is read from the settings on its stack."""

from __future__ import annotations

import sys
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from framework._manager.servers import worker_count

CODE = """
def call(ask, **names):

    config, cfg, self = names.get("config"), names.get("cfg"), names.get("self")
    return ask()
"""


def asked_from(module: str, **names: Any) -> int:
    """Return what is found by something that a function of *module* calls."""
    namespace: dict[str, Any] = {"__name__": module}
    exec(CODE, namespace)

    def ask() -> int:
        frame: FrameType = sys._getframe()
        return worker_count(frame)

    found: int = namespace["call"](ask, **names)
    return found


def settings(**values: Any) -> SimpleNamespace:
    """Return a server's settings."""
    return SimpleNamespace(**values)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the environment of whoever runs the tests out."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


SERVERS: list[tuple[str, dict[str, Any], int]] = [
    ("uvicorn.server", {"self": settings(config=settings(workers=4))}, 4),
    ("uvicorn._subprocess", {"config": settings(workers=3, should_reload=False)}, 3),
    ("uvicorn.server", {"config": settings(workers=4, should_reload=True)}, 1),
    ("gunicorn.workers.sync", {"self": settings(cfg=settings(workers=8))}, 8),
    ("hypercorn.run", {"config": settings(workers=2)}, 2),
    ("uvicorn.lifespan", {}, 1),
    ("uvicorn.server", {"config": settings(workers="many")}, 1),
    ("uvicornish", {"config": settings(workers=4)}, 1),
]


def test_settings_on_the_stack() -> None:
    """The nearest server on the stack that knows its number of workers is used."""
    found = [(module, names, asked_from(module, **names)) for module, names, _ in SERVERS]

    assert found == SERVERS


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no server is found, the environment variable that servers share is used."""
    for value, count in (("5", 5), ("", 1), ("many", 1)):
        monkeypatch.setenv("WEB_CONCURRENCY", value)

        assert worker_count(None) == count, value
