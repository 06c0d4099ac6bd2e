"""What the READMEs say about the demo and about other files is so."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.children import run
from tests.serving import serving

ROOT = Path(__file__).resolve().parents[2]
READMES = sorted(ROOT.glob("README*.md"))
TUTORIAL = ROOT / "docs" / "tutorial.md"
DEMO = "http://127.0.0.1:8000"

_TRIES = 100
_SERVED = {
    "uvicorn main:app": "main:app",
    "uvicorn first_app:app --timeout-graceful-shutdown 5": "first_app:app",
    "make demo": "framework.example:app",
}
"""Which app answers the lines after a command that serves one."""
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
_STEP = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_CODE = re.compile(r"^(`{3,}).*?^\1$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)#:\s]+)(?:#[^)]*)?\)")
_ASSIGNMENT = re.compile(r"(\w+)=\$\(")
_ID = re.compile(r"\b[0-9a-f]{32}\b")
_STAMPS = ("created_at", "start_time", "end_time")
_SECONDS = ("duration", "queue_time", "mean", "min", "max", "p50", "p95", "p99")


@dataclass
class Step:
    """One command of a console block, and the answer printed below it."""

    command: str
    answer: str


def steps_of(page: Path) -> dict[str, list[Step]]:
    """Return the commands with curl of a page, in order, by the app that is served for them."""
    found: dict[str, list[Step]] = {app: [] for app in _SERVED.values()}
    app = None
    for block in _BLOCK.findall(page.read_text("utf-8")):
        for command, answer in _STEP.findall(block):
            app = _SERVED.get(command.partition("#")[0].strip(), app)
            if "curl" in command:
                assert app is not None, "nothing is served yet"
                found[app].append(Step(command, answer.strip()))
    return found


def first_app(page: Path) -> str:
    """Return the first block of Python on a page."""
    found = re.search(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def comparable(answer: str) -> Any:  # any JSON, or a text
    """Return an answer without what differs from one run to the next."""
    try:
        return plain(json.loads(answer))
    except ValueError:
        return _ID.sub("<id>", answer)


def plain(value: Any) -> Any:
    """Return JSON with ids, stamps and durations replaced."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {_ID.sub("<id>", key): replaced(key, item) for key, item in value.items()}
    return _ID.sub("<id>", value) if isinstance(value, str) else value


def replaced(key: str, value: Any) -> Any:
    """Return the value of one key, or its kind if the value differs between runs."""
    if value is not None and key in _STAMPS:
        return "<stamp>"
    if value is not None and key in _SECONDS:
        return "<seconds>"
    return plain(value)


class Shell:
    """Runs commands one after the other, with the demo where this run has it.

    A command that sets a variable prints nothing; later ones see the variable.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._variables: dict[str, str] = {}

    def run(self, command: str) -> str:
        """Run one command and return what it printed."""
        assignment = _ASSIGNMENT.match(command)
        script = command.replace(DEMO, self._url)
        if assignment is not None:
            script += f'; printf %s "${assignment[1]}"'
        done = run("bash", "-c", script, env=self._variables)
        if assignment is None:
            return done.stdout.strip()
        self._variables[assignment[1]] = done.stdout
        return ""


def until(expected: Any, answers: Iterator[str]) -> Iterator[str]:
    """Yield answers up to the expected one."""
    for answer in answers:
        yield answer
        if comparable(answer) == expected:
            return


def answers_to(command: str, shell: Shell) -> Iterator[str]:
    """Yield what a command prints; again if it only asks for a task and does not wait."""
    yield shell.run(command)
    if "/tasks/$ID" in command and "wait=" not in command and "-X" not in command:
        for _ in range(_TRIES):
            yield shell.run(command)


def served_from(app: str, page: Path, folder: Path) -> Path:
    """Return the folder of an app; the README's own is written into *folder* first."""
    if app == "main:app":
        (folder / "main.py").write_text(first_app(page), "utf-8")
        return folder
    return ROOT / "docs" / "examples" if app == "first_app:app" else ROOT


@pytest.mark.extended("processes")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("page", "app", "least"),
    [
        *((page, "main:app", 2) for page in READMES),
        *((page, "framework.example:app", 10) for page in READMES),
        (TUTORIAL, "first_app:app", 2),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_curl(page: Path, app: str, least: int, tmp_path: Path) -> None:
    """The apps answer each curl line as printed, but for ids, stamps and durations."""
    steps = steps_of(page)[app]
    assert len(steps) >= least
    with serving(app, app_dir=served_from(app, page, tmp_path)) as server:
        shell = Shell(server.url)
        for step in steps:
            expected = comparable(step.answer)
            answers = list(until(expected, answers_to(step.command, shell)))
            assert comparable(answers[-1]) == expected, step.command


@pytest.mark.skipif(not (ROOT / "LICENSE").exists(), reason="not the whole tree")
def test_links() -> None:
    """Each relative link of each page leads to a file, and has a text where nothing is built."""
    docs = [page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
    links = [
        (page.relative_to(ROOT), text, link)
        for page in [*ROOT.glob("*.md"), *docs]
        for text, link in _LINK.findall(_CODE.sub("", page.read_text("utf-8")))
    ]
    assert {page.name for page in READMES} < {page.name for page, _, _ in links}

    assert [
        (page, text, link)
        for page, text, link in links
        if not text or not (ROOT / page.parent / link).exists()
    ] == []


@pytest.mark.skipif(not (ROOT / "LICENSE").exists(), reason="not the whole tree")
def test_links_on_an_index_page() -> None:
    """What a package index shows of the README has no link into the repository."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    shown = READMES[0].read_text("utf-8")
    for one in settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(one["pattern"], one["replacement"], shown)

    assert re.findall(r"\]\((?!https?://)|!\[|dashboard-light.png", shown) == []
    assert "Scaling (docs/scaling.md) has" in shown
