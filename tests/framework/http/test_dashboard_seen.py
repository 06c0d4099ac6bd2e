"""The page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.patience import PATIENCE
from tests.serving import Server, serving

expect.set_options(timeout=PATIENCE * 1_000)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Serve the app whose tasks wait until they are let go."""
    with serving("tests.framework.apps.watched:app", "--timeout-graceful-shutdown", "1") as served:
        yield served


@pytest.fixture(scope="module")
def app(server: Server) -> Iterator[httpx.Client]:
    """Call the app's routes."""
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """Open the page; it must not report an error, nor ask any other host."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        opened = context.new_page()
        opened.set_default_timeout(PATIENCE * 1_000)
        errors: list[str] = []
        asked: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(f"{server.url}/tasks/dashboard")
        expect(opened.locator("body.starting")).to_have_count(0)
        yield opened
        assert errors == []
        assert [url for url in asked if not url.startswith((server.url, "data:"))] == []


def started(app: httpx.Client, path: str) -> str:
    """Start a task and return its id."""
    task_id: str = app.post(path).json()["task_id"]
    return task_id


def test_a_task_is_seen_from_start_to_end(page: Page, app: httpx.Client) -> None:
    """A task appears, its progress moves, and it is shown as completed with its result."""
    task_id = started(app, "/steps/seen")
    row = page.get_by_role("row").filter(has_text="steps").first
    expect(row).to_contain_text("Running")
    app.post("/step/seen", params={"progress": 0.4, "message": "reading"})
    expect(row).to_contain_text("40 %")
    expect(row).to_contain_text("reading")
    expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "40")
    row.click()
    panel = page.get_by_role("complementary")
    expect(panel).to_contain_text(task_id)
    app.post("/step/seen")
    expect(row).to_contain_text("Completed")
    expect(panel).to_contain_text('"done"')
