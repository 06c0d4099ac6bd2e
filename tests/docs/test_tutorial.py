"""The last step of the tutorial, in a browser."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.patience import PATIENCE
from tests.serving import serving

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
WATCH = """
window.seen = [];
new MutationObserver(() => seen.push(document.querySelector('[role=status]').textContent))
    .observe(document.querySelector('[role=status]'), {childList: true});
"""
OPENED = "performance.getEntriesByType('resource').map(entry => entry.name)"


def test_progress_bar(browser: Browser) -> None:
    """The page counts its three lines one by one, fills its bar, and shows the counts."""
    with (
        serving("first_app:app", app_dir=EXAMPLES) as server,
        browser.new_page() as page,
    ):
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(server.url)
        page.evaluate(WATCH)
        page.get_by_role("button", name="Count the words").click()
        bar = page.get_by_role("progressbar", name="Progress")
        expect(bar).to_have_js_property("value", 1, timeout=PATIENCE * 1000)
        counts = '{"the":3,"red":1,"one":3,"blue":1,"last":1}'
        expect(page.get_by_role("status")).to_have_text(counts, timeout=PATIENCE * 1000)
        seen = page.evaluate("seen")
        opened = page.evaluate(OPENED)
    # The stream has ended, and the browser has not opened it again.
    assert len([url for url in opened if url.endswith("/events")]) == 1
    assert [text for text in seen if text.startswith("line ")][:2] == [
        "line 1 of 3",
        "line 2 of 3",
    ]
