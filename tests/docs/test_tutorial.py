"""The last step of the tutorial, in a browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.patience import PATIENCE
from tests.serving import ROOT, serving

EXAMPLES = ROOT / "docs" / "examples"
IN_TURNS = """
import threading
import types

import first_app

app = first_app.app
turns = threading.Semaphore(0)
first_app.time = types.SimpleNamespace(sleep=lambda seconds: turns.acquire())


@app.post("/turn")
def count_a_line() -> None:
    turns.release()
"""
"""The app, whose task counts a line when it is told to, and not each half second."""
OPENED = "performance.getEntriesByType('resource').map(entry => entry.name)"


@pytest.fixture(autouse=True)
def patient() -> None:
    """Let the browser take its time on a busy machine."""
    expect.set_options(timeout=PATIENCE * 1000)


def test_progress_bar(browser: Browser, tmp_path: Path) -> None:
    """The bar moves with each line, and then the page shows the counts; axe finds no fault."""
    (tmp_path / "in_turns.py").write_text(IN_TURNS, encoding="utf-8")
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(EXAMPLES)])}
    with (
        serving("in_turns:app", app_dir=tmp_path, env=env) as server,
        browser.new_page() as page,
    ):
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(server.url)
        bar = page.get_by_role("progressbar", name="Progress")
        message = page.get_by_role("status")
        page.get_by_role("button", name="Count the words").click()
        expect(message).to_have_text("running")
        for line in (1, 2):
            page.request.post(f"{server.url}/turn")
            expect(message).to_have_text(f"line {line} of 3")
            expect(bar).to_have_js_property("value", line / 3)
        page.request.post(f"{server.url}/turn")
        expect(message).to_have_text('{"the":3,"red":1,"one":3,"blue":1,"last":1}')
        expect(bar).to_have_js_property("value", 1)
        opened = page.evaluate(OPENED)
        violations = Axe().run(page).response["violations"]
    assert violations == []
    # The stream has ended, and the browser has not opened it again.
    assert len([url for url in opened if url.endswith("/events")]) == 1
