"""The browser of the tests."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

PAGE = "<html lang=en><title>Tasks</title><main><h1>Tasks</h1><img src='data:,'></main></html>"


def test_a_page_is_examined(browser: Browser) -> None:
    """Chromium runs scripts of a page, and axe finds the picture that has no text."""
    with browser.new_page() as page:
        page.set_content(PAGE)
        assert page.evaluate("document.title") == "Tasks"
        violations = Axe().run(page).response["violations"]
    assert [one["id"] for one in violations] == ["image-alt"]
