"""The types of the public names, checked by mypy."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

import framework
from tests.children import python

API = Path(__file__).with_name("api.py")
ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
HAS_MYPY = importlib.util.find_spec("mypy") is not None


def first_block(page: str) -> str:
    """Return the first block of Python on a page."""
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.extended("processes")
@pytest.mark.timeout(300)
@pytest.mark.skipif(not HAS_MYPY and "CI" not in os.environ, reason="mypy is not installed")
def test_api(tmp_path: Path) -> None:
    """Every type in api.py is the one that mypy finds in strict mode; README's app passes it."""
    app = tmp_path / "readme_app.py"
    app.write_text(first_block(README.read_text("utf-8")), "utf-8")
    home = Path(framework.__file__).parents[1]
    # mypy finds an installed package by itself, and wants to.
    paths = [] if home.name == "site-packages" else [str(home)]
    python(
        *("-m", "mypy", "--strict"),
        *("--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path / "cache"),
        *(API, app),
        cwd=ROOT,
        env={"MYPYPATH": os.pathsep.join(paths)},
        patience=280,
    )


def test_api_uses_every_name() -> None:
    """api.py names everything that the package exports."""
    words = set(API.read_text(encoding="utf-8").replace("(", " ").replace(",", " ").split())

    assert set(framework.__all__) <= words
