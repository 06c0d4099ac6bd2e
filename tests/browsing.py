"""A real browser, as those have it who look at the pages of an app."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.programs import program

FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",  # root has none
)
"""What keeps Chromium from everything but the page."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a headless Chromium; without one the test is skipped, or fails where CI is set.

    Until the end no other event loop can run on this thread.
    """
    found = program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
