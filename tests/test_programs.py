"""Where tests find the programs that they need."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pytest_asyncframe._backends.programs import WHEELS
from tests.programs import program
from tests.serving import ROOT


def test_wheels_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program on the path is preferred to that of a wheel, which is used if there is none."""
    package, folder = WHEELS["redis-server"]
    brought, installed = tmp_path / package / folder, tmp_path / "bin"
    for home in (brought, installed):
        home.mkdir(parents=True)
        (home / "redis-server").touch(0o755)
    (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    monkeypatch.setenv("PATH", str(installed))
    assert program("redis-server") == str(installed / "redis-server")
    monkeypatch.setenv("PATH", "/nowhere")
    assert program("redis-server") == str(brought / "redis-server")


def test_groups_that_bring_servers() -> None:
    """Each wheel is in the group of dependencies that has the program's name."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    for name, (package, _) in WHEELS.items():
        assert [re.split("[^a-z-]", one)[0] for one in groups[name]] == [package.replace("_", "-")]


def test_missing_program_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a server its tests are skipped, with the cure as reason."""
    monkeypatch.delenv("CI", raising=False)
    reason = r"^setpriv is not installed: apt-get install util-linux$"
    with pytest.raises(pytest.skip.Exception, match=reason):
        program("setpriv", path="/nowhere")


def test_missing_tool_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make test` installs is named with the target that does it."""
    monkeypatch.delenv("CI", raising=False)
    reason = r"^tsc is not installed: make \.venv/\.tools$"
    with pytest.raises(pytest.skip.Exception, match=reason):
        program("tsc", path="/nowhere")


def test_missing_program_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CI is set no server may be missing."""
    monkeypatch.setenv("CI", "true")
    reason = (
        r"^redis-server is not installed: apt-get install redis-server, "
        r"or pip install --group redis-server$"
    )
    with pytest.raises(pytest.fail.Exception, match=reason):
        program("redis-server", path="/nowhere")
