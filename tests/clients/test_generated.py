"""Clients that are generated from the example's OpenAPI do what those written by hand do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import children
from tests.programs import TOOLS, everywhere, program
from tests.serving import ROOT, serving

pytestmark = pytest.mark.extended("processes")

PROGRAMS = ROOT / "docs" / "examples" / "clients"

STRICT = """
[mypy]
strict = true
follow_imports = silent
disable_error_code = no-any-unimported
"""

COMPILER = {
    "compilerOptions": {
        "lib": ["es2022", "dom"],
        "module": "nodenext",
        "noUncheckedIndexedAccess": True,
        "skipLibCheck": True,
        "strict": True,
        "target": "es2022",
        "types": [],
    },
    "files": ["follow.ts"],
}


def run(folder: Path, name: str, *arguments: str) -> str:
    """Run a program in a folder, and return what it printed; it must succeed."""
    env = {"PATH": everywhere(name)}
    return children.run(program(name), *arguments, cwd=folder, env=env).stdout


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the example."""
    with serving("framework.example:app") as server:
        yield server.url


@pytest.fixture
def folder(tmp_path: Path, url: str) -> Path:
    """Return a folder that has the app's OpenAPI in a file."""
    (tmp_path / "openapi.json").write_bytes(httpx.get(f"{url}/openapi.json").content)
    return tmp_path


def test_python_client(folder: Path, url: str) -> None:
    """A client made by openapi-python-client is typed, follows a task and cancels another."""
    (folder / "config.yaml").write_text("post_hooks: []\n", encoding="utf-8")
    options = ["--meta=none", "--config=config.yaml", "--output-path=tasks_client"]
    told = run(folder, "openapi-python-client", "generate", "--path=openapi.json", *options)
    assert "Warning" not in told
    (folder / "follow.py").write_bytes((PROGRAMS / "follow.py").read_bytes())
    (folder / "mypy.ini").write_text(STRICT, encoding="utf-8")
    python = str(TOOLS / "bin" / "python")
    children.python("-m", "mypy", "--python-executable", python, "follow.py", cwd=folder)

    assert run(folder, python, "follow.py", url).splitlines() == [
        "Processed(status='completed', data_id='7', additional_properties={})",
        "True cancelled",
        "True",
    ]


def test_typescript_client(folder: Path, url: str) -> None:
    """A program with types of openapi-typescript compiles, follows a task and cancels another."""
    program("node")
    run(folder, "openapi-typescript", "openapi.json", "--output", "api.d.ts")
    (folder / "follow.ts").write_bytes((PROGRAMS / "follow.ts").read_bytes())
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (folder / "tsconfig.json").write_text(json.dumps(COMPILER), encoding="utf-8")
    (folder / "node_modules").symlink_to(TOOLS / "node_modules")
    run(folder, "tsc")

    assert run(folder, "node", "follow.js", url).splitlines() == [
        "completed 7",
        "true cancelled",
    ]
