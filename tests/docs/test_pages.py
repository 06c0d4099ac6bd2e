"""Every Python block of the documentation, and of the pages in the root, runs as it stands."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from framework import exceptions

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    if "_build" not in page.relative_to(ROOT).parts
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks(page: Path) -> None:
    """The blocks of a page run from top to bottom, in one namespace."""
    document = Sybil([PythonCodeBlockParser()]).parse(page)
    # What pydantic and pickle ask of a class.
    document.namespace["__name__"] = f"page_{page.stem.replace('-', '_')}"
    blocks = list(document.examples())
    try:
        for block in blocks:
            block.evaluate()
    finally:
        # Schedules end with their functions, and the next test must not run these.
        document.namespace.clear()
        if blocks:
            gc.collect()


def test_pages_are_found() -> None:
    """The front page and each part of the documentation are among the pages."""
    found = {page.relative_to(ROOT).as_posix() for page in PAGES}

    assert {"README.md", "docs/index.md", "docs/tutorial.md", "docs/glossary.md"} <= found


def test_every_error_is_on_the_page_of_errors() -> None:
    """The page of errors has a row for each public error but their base."""
    page = (DOCS / "errors.md").read_text("utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))

    assert set(exceptions.__all__) - rows == {"FrameworkError"}
