"""The processes that share a store, on the page in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from tests.patience import PATIENCE
from tests.processes.work.working import web, worker

expect.set_options(timeout=PATIENCE * 1_000)


@pytest.fixture
def environment(sqlite_url: str, tmp_path: Path) -> dict[str, str]:
    """What the processes of the app find in their environment."""
    return {"TASKS_URL": sqlite_url, "RUNS": str(tmp_path / "runs")}


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Give a page that is not open yet."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        made = context.new_page()
        made.set_default_timeout(PATIENCE * 1_000)
        yield made


@pytest.mark.extended("processes")
def test_the_page_lists_the_processes(environment: dict[str, str], page: Page) -> None:
    """The page says what each process is and runs, for how long, and how full it is."""
    options = "--max-workers", "2", "--only", "work.long"
    with web(environment) as app, worker(environment, *options) as one:
        page.goto(f"{app.url}/tasks/dashboard")
        card = page.locator("#card-processes")
        lines = card.get_by_role("listitem")
        its = lines.filter(has_text=f" {one.process.pid}Worker")
        expect(its).to_contain_text(re.compile(r"0 of 2IdleUp \d+ s$"))
        expect(lines.filter(has_text="Submits only")).to_have_count(1)
        expect(lines).to_have_count(2)
        for _ in range(2):
            app.post("/long/600")
        expect(its).to_contain_text(re.compile(r"2 of 22 work\.longfor \d+ sUp \d+ s$"))
        page.set_viewport_size({"width": 360, "height": 740})
        page.get_by_role("button", name="Overview").click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert Axe().run(page).response["violations"] == []
        one.process.kill()
        expect(lines).to_have_count(1)
        expect(card).to_contain_text("none of them runs tasks, start asyncframe worker")


def told(route: Route) -> None:
    """Answer with many processes in place of the one that there is, all silent for long."""
    headers = {name: text for name, text in route.request.headers.items() if "match" not in name}
    answer = route.fetch(headers=headers)
    facts = answer.json()
    (one,) = facts["processes"]
    one |= {"kind": "app", "places": 8, "busy": 3, "names": ["a" * 300], "since": 1.0}
    one |= {"host": "<b>" * 90, "seen": one["started"]}
    # Tasks on the loop may be more than the places for those that others submit.
    facts["processes"] = [one | {"pid": pid, "busy": 3 + 6 * pid} for pid in range(9)]
    route.fulfill(response=answer, json=facts)


@pytest.mark.extended("processes")
def test_many_processes_and_long_words(environment: dict[str, str], page: Page) -> None:
    """Of many processes the page shows some, and of each that is silent when it was seen last."""
    with web(environment) as app:
        page.route("**/facts", told)
        for width in (1280, 820, 360):
            page.set_viewport_size({"width": width, "height": 740})
            page.goto(f"{app.url}/tasks/dashboard")
            if width == 360:
                page.get_by_role("button", name="Overview").click()
            card = page.locator("#card-processes")
            lines = card.get_by_role("listitem")
            expect(lines).to_have_count(4)
            expect(lines.first).to_contain_text(
                re.compile(r"<b> 0App3 of 8a{300}for yearsLast seen .*ago$")
            )
            expect(lines.nth(1)).to_contain_text("App9 runninga")
            card.get_by_role("button", name="Show 5 more").click()
            expect(lines).to_have_count(9)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
