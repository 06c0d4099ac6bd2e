"""Generated requests get no error of the server, and no answer that OpenAPI does not have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.children import run
from tests.patience import PATIENCE
from tests.programs import everywhere, program
from tests.serving import serving

# Whether a text is the `next` of a page, no schema can say.
SETTINGS = """
[[operations]]
include-operation-id = "list_tasks"
checks.positive_data_acceptance.expected-statuses = ["2xx", "422"]
"""

# DELETE cancels a task, which is still shown then. And 405 names the methods of one route of a
# path, as with all routes of FastAPI.
UNMEANT = "use_after_free,allow_header_conformance"


def tried(app: str, folder: Path, examples: int, *options: str, patience: float = PATIENCE) -> int:
    """Try an app with generated requests, which must all be answered well; return how many."""
    (folder / "schemathesis.toml").write_text(SETTINGS, encoding="utf-8")
    with serving(app, "--log-level", "info") as server:
        command = [program("st"), "run", f"{server.url}/openapi.json", "--checks", "all"]
        # A wait may take a minute.
        command += ["--request-timeout", "65"]
        command += ["--exclude-checks", UNMEANT, "-n", str(examples), *options]
        env = {"PATH": everywhere("st"), "NO_COLOR": "1"}
        done = run(*command, cwd=folder, env=env, patience=patience)
    found = re.search(r"([\d,]+) generated", done.stdout)
    assert found is not None, done.stdout
    return int(found[1].replace(",", ""))


@pytest.mark.extended("processes")
def test_generated_requests(tmp_path: Path) -> None:
    """Some hundred requests, good and bad ones, are answered as OpenAPI says."""
    options = ["--phases", "coverage,fuzzing", "--seed", "1"]
    assert tried("tests.framework.apps.tried:app", tmp_path, 5, *options) > 100


@pytest.mark.soak
def test_thousands_of_generated_requests(tmp_path: Path) -> None:
    """Thousands of requests, and chains of them, are answered as OpenAPI says."""
    assert tried("tests.framework.apps.tried:app", tmp_path, 400, patience=3_000) > 2_000


@pytest.mark.soak
def test_thousands_of_requests_to_the_example(tmp_path: Path) -> None:
    """The example answers thousands of requests as its OpenAPI says."""
    # FastAPI takes a number where a text may be, and false for 0.
    lenient = ["--exclude-checks", f"{UNMEANT},negative_data_rejection"]
    # No chains of them: those wait for tasks that are delayed for long, up to a minute each.
    lenient += ["--phases", "coverage,fuzzing"]
    assert tried("framework.example:app", tmp_path, 200, *lenient, patience=3_000) > 2_000
