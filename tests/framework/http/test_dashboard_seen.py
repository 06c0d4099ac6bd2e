"""The page in a real browser."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Literal

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.framework.apps.hostile import HOSTILE
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


def row_of(page: Page, text: str) -> Locator:
    """Return the first row with a text."""
    return page.locator("#rows").get_by_role("row").filter(has_text=text).first


def find(page: Page, text: str) -> Locator:
    """Search for a text that one task has, and return its row once it is the only one."""
    with page.expect_response(re.compile(f"search={text}")):
        page.get_by_role("searchbox").fill(text)
    expect(page).to_have_url(re.compile(f"search={text}"))
    row = page.locator("#rows").get_by_role("row")
    expect(row).to_have_count(1)
    return row


def test_a_task_is_seen_from_start_to_end(page: Page, app: httpx.Client) -> None:
    """A task appears, its progress moves, and its meta and its result are shown.

    A click on its meta leaves the tasks with the same.
    """
    task_id = started(app, "/steps/seen")
    row = find(page, task_id)
    expect(row).to_contain_text("Running")
    app.post("/step/seen", params={"progress": 0.4, "message": "reading"})
    expect(row).to_contain_text("40 %")
    expect(row).to_contain_text("reading")
    expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "40")
    row.click()
    panel = page.get_by_role("complementary")
    expect(panel).to_contain_text(task_id)
    expect(panel.get_by_role("definition")).to_contain_text(
        ["seen", "<b>seen</b>", "true", "key seen"]
    )
    app.post("/step/seen")
    expect(row).to_contain_text("Completed")
    expect(panel).to_contain_text('"done"')
    other = started(app, "/steps/other")
    page.get_by_role("searchbox").fill("key ")
    expect(row_of(page, "key other")).to_be_visible()
    panel.get_by_role("button", name="<b>seen</b>").click()
    expect(row_of(page, "key other")).to_have_count(0)
    page.reload()
    expect(row_of(page, "key seen")).to_be_visible()
    expect(row_of(page, "key other")).to_have_count(0)
    page.get_by_role("button", name='Show all, not only key: "<b>seen</b>"').click()
    expect(row_of(page, "key other")).to_be_visible()
    app.delete(f"/tasks/{other}", headers={"X-Requested-With": "tests"})


def test_cancel_and_run_again(page: Page, app: httpx.Client) -> None:
    """A task is cancelled from its row, and runs again from its details, as a new task."""
    task_id = started(app, "/steps/cancelled")
    row = find(page, task_id)
    row.hover()
    row.get_by_role("button", name="Cancel: steps", include_hidden=True).click()
    expect(page.get_by_role("status")).to_have_text("The task is cancelled")
    expect(row).to_contain_text("Cancelled")
    row.click()
    panel = page.get_by_role("complementary")
    panel.get_by_role("button", name="Copy id").click()
    expect(page.get_by_role("status")).to_have_text("The id is copied")
    panel.get_by_role("button", name="Run again").click()
    expect(page.get_by_role("status")).to_have_text("The task runs again, as a new task")
    page.get_by_role("searchbox").fill("steps")
    again = row_of(page, "Running")
    again.click()
    panel.get_by_role("link", name=task_id).click()
    expect(panel).to_contain_text("Cancelled")
    app.post("/step/cancelled")


def test_all_that_match(page: Page, app: httpx.Client) -> None:
    """All tasks of a list are cancelled, or run again and taken back, once somebody is sure."""
    for _ in range(3):
        started(app, "/steps/bulk")
    page.get_by_role("searchbox").fill("key bulk")
    page.get_by_role("button", name=re.compile("^Running")).click()
    rows = page.locator("#rows").get_by_role("row")
    expect(rows).to_have_count(3)
    bulk, sure = page.locator("#bulk"), page.get_by_role("dialog")
    bulk.click()
    expect(sure).to_contain_text("Cancel 3 tasks?")
    page.keyboard.press("Escape")
    expect(rows).to_have_count(3)
    bulk.click()
    sure.get_by_role("button", name="Cancel them").click()
    expect(page.get_by_role("status")).to_have_text("3 tasks cancelled")
    expect(rows).to_have_count(0)
    page.get_by_role("button", name=re.compile("^Cancelled")).click()
    expect(rows).to_have_count(3)
    bulk.click()
    sure.get_by_role("button", name="Run them").click()
    expect(page.get_by_role("status")).to_contain_text("run again, as new tasks")
    ended = page.get_by_role("button", name=re.compile("^Completed"))
    before = ended.text_content() or ""
    app.post("/step/bulk")
    expect(ended).not_to_have_text(before)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("status")).to_have_text(
        re.compile("^(1 new task had ended, 2 cancelled|2 new tasks cancelled, 1 had ended)$")
    )
    page.get_by_role("button", name=re.compile("^Running")).click()
    expect(rows).to_have_count(0)


def test_what_ended_when(page: Page, app: httpx.Client) -> None:
    """A click on the last bars leaves what ended then, by mouse or keyboard, until it is undone."""
    find(page, started(app, "/start/fails"))
    page.get_by_role("searchbox").fill("")
    rows = page.locator("#rows").get_by_role("row")
    bars = page.get_by_role("toolbar").get_by_role("button")
    expect(bars).to_have_count(60)
    expect(bars.last).to_have_attribute("aria-label", re.compile("nothing|ended"))
    bars.first.click()
    expect(page).to_have_url(re.compile("ended="))
    expect(rows).to_have_count(0)
    page.get_by_role("button", name=re.compile("^Show all times")).click()
    expect(rows.first).to_be_visible()
    bars.last.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("ended="))
    page.get_by_role("button", name="7 d").click()
    expect(bars).to_have_count(84)


def test_a_thread_that_is_asked_to_stop(page: Page, app: httpx.Client) -> None:
    """A thread cannot be stopped, so its task goes on, and says that it was asked."""
    row = find(page, started(app, "/hold/asked"))
    row.click()
    panel = page.get_by_role("complementary")
    panel.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("The task was asked to stop")
    expect(panel).to_contain_text("Asked to cancel: its thread cannot be stopped")
    app.post("/release/asked")
    expect(panel).to_contain_text("It was asked to cancel, but ended otherwise.")


def test_filters(page: Page, app: httpx.Client) -> None:
    """Tabs, functions, groups and the search leave some tasks, also in a page that is loaded again.

    Keys alone open the groups and choose one.
    """
    failed, gate = started(app, "/start/fails"), started(app, "/hold/filters")
    page.get_by_role("button", name=re.compile("^Failed")).click()
    expect(row_of(page, "fails")).to_be_visible()
    expect(row_of(page, "held")).to_have_count(0)
    page.get_by_role("combobox", name="Function").select_option("held")
    expect(page.get_by_text("No task matches")).to_be_visible()
    page.reload()
    expect(page.get_by_text("No task matches")).to_be_visible()
    page.get_by_role("button", name="Show all tasks").click()
    expect(find(page, failed)).to_contain_text("ConnectionError")
    expect(find(page, gate)).to_contain_text("Running")
    app.post("/release/filters")
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Function", exact=True).focus()
    page.keyboard.press("Enter")
    group = page.locator("#grouped li").filter(has_text="fails")
    expect(group).to_contain_text(re.compile(r"\d+ failed"))
    some = {"groups": [["a", 0, 0, 1]], "left": 9}
    asked = re.compile("by=label")
    page.route(asked, lambda route: route.fulfill(response=route.fetch(), json=some))
    page.get_by_role("button", name="Label", exact=True).click()
    told = "1 of 10, most failures first: search for the others"
    expect(page.locator("#groups")).to_contain_text(told)
    page.get_by_role("button", name="Function", exact=True).click()
    group.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"\?name=fails&by=name$"))
    expect(row_of(page, "held")).to_have_count(0)
    expect(row_of(page, "fails")).to_be_visible()


def test_the_keyboard(page: Page, app: httpx.Client) -> None:
    """Every task can be found, opened and left by keys alone, and the focus is not lost."""
    for key in ("a", "b", "c"):
        started(app, f"/steps/keys-{key}")
    expect(row_of(page, "steps")).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("STEPS")
    expect(page).to_have_url(re.compile("search=STEPS"))
    page.keyboard.press("ArrowDown")
    grid = page.get_by_role("grid")
    expect(grid).to_be_focused()
    chosen = page.locator("[role=row][aria-selected=true]")
    expect(chosen).to_have_attribute("aria-rowindex", "2")
    for key, at in [("j", "3"), ("ArrowDown", "4"), ("k", "3"), ("Home", "2"), ("j", "3")]:
        page.keyboard.press(key)
        expect(chosen).to_have_attribute("aria-rowindex", at)
        expect(grid).to_have_attribute("aria-activedescendant", chosen.get_attribute("id") or "")
    page.keyboard.press("Enter")
    panel = page.get_by_role("complementary")
    expect(panel).to_be_focused()
    first = page.evaluate("location.hash")
    page.keyboard.press("j")
    expect(page).not_to_have_url(re.compile(f"{first}$"))
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(grid).to_be_focused()
    for key in ("a", "b", "c"):
        app.post(f"/step/keys-{key}")


def test_mistaken_links(page: Page, server: Server) -> None:
    """A link with a mistake opens the page, and not an error; one status opens its tab."""
    page.goto(f"{server.url}/tasks/dashboard?status=timeout")
    tab = page.get_by_role("button", name=re.compile("^Failed"))
    expect(tab).to_have_attribute("aria-pressed", "true")
    for part in ("?status=lost", "#%", f"?search={'x' * 300}", "#unknown"):
        page.goto(f"{server.url}/tasks/dashboard{part}")
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_role("complementary")).to_contain_text("This task is not kept")


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts(page: Page, app: httpx.Client, kind: str) -> None:
    """A description is shown as it is; it makes no row higher, and cuts no function's name.

    A name that is too long itself is cut at its end.
    """
    task_id = started(app, f"/hostile/{kind}")
    row = find(page, task_id)
    start = " ".join(HOSTILE[kind][:20].split())
    expect(row).to_contain_text(start)
    # A hundredth of a pixel that is missing costs two letters.
    cut = """name => {
        const text = document.createRange()
        text.selectNodeContents(name)
        return text.getBoundingClientRect().width - name.getBoundingClientRect().width
    }"""
    if kind == "long":
        expect(row.locator(".task b")).to_contain_text("name")
    else:
        assert row.locator(".task b").evaluate(cut) <= 0
    row.click()
    expect(page.get_by_role("complementary")).to_contain_text(start)
    assert page.title().endswith("Tasks")
    box = row.bounding_box()
    assert box is not None
    assert box["height"] == 44
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.textContent.length") < 200_000


def test_waits(page: Page, app: httpx.Client) -> None:
    """A task that waits for its next attempt, or for a throttle, says until when.

    One whose time is long over waits for a process.
    """
    retried = started(app, "/start/retried")
    started(app, "/start/throttled")
    throttled = started(app, "/start/throttled")
    expect(find(page, retried)).to_contain_text(
        re.compile(r"Next attempt in (10 min|9 min \d+ s), 1 of 5 failed: ConnectionError")
    )
    expect(find(page, throttled)).to_contain_text(
        re.compile(r"Next slot in (10 min|9 min \d+ s), throttle tests\.")
    )
    expect(page.locator("#card-throttles")).to_contain_text(re.compile("1 waits, next in"))

    def overdue(route: Route) -> None:
        answered = route.fetch()
        shown = answered.json()
        for row in shown["rows"]:
            row["wait"] = {"kind": "delayed", "until": 1}
        route.fulfill(response=answered, json=shown)

    page.route(re.compile("dashboard/list"), overdue)
    expect(find(page, retried)).to_contain_text("Waits for a process")


def test_an_abandoned_thread(page: Page, app: httpx.Client) -> None:
    """A function that runs past its limit is shown with its task, and among the threads."""
    row = find(page, started(app, "/start/limited"))
    expect(row).to_contain_text("Timed out")
    expect(row).to_contain_text("Its function still runs")
    threads = page.locator("#card-threads")
    expect(threads).to_contain_text("1 thread runs past the limit: limited")
    app.post("/release/limited")
    expect(row).not_to_contain_text("Its function still runs")
    expect(threads).not_to_contain_text("past the limit")


def test_no_message_of_an_error(page: Page, app: httpx.Client) -> None:
    """Unless errors are exposed, the page has their types and not their messages."""
    answers: list[str] = []
    page.on("response", lambda response: answers.append(response.url))
    find(page, started(app, "/start/fails")).click()
    panel = page.get_by_role("complementary")
    expect(panel).to_contain_text("ConnectionError")
    assert "hunter2" not in page.content()
    assert answers
    for url in answers:
        assert "hunter2" not in app.get(url).text


def test_a_button(page: Page) -> None:
    """A button of the app starts its task, and the page says so."""
    with page.expect_response("**/start/fails") as answer:
        page.get_by_role("button", name="Fail", exact=True).click()
    expect(page.get_by_role("status")).to_have_text("Fail: started")
    expect(find(page, answer.value.json()["task_id"])).to_contain_text("fails")


def test_a_task_asks(page: Page, app: httpx.Client) -> None:
    """Steps are shown as they end; what a task waits for is answered by a button or in a field."""
    find(page, started(app, "/order/seven")).click()
    panel = page.get_by_role("complementary")
    steps = panel.locator("#steps li")
    expect(steps).to_have_count(2)
    expect(steps.first).to_contain_text("charge")
    expect(steps.last).to_contain_text("message approval waits")
    assert barriers(page) == []
    panel.get_by_role("button", name="Yes").click()
    expect(page.get_by_role("status")).to_have_text("The task gets approval: Yes")
    field = panel.get_by_role("textbox", name="remark")
    field.fill('{"bye": "Ann"}')
    panel.get_by_role("button", name="Send").click()
    expect(page.get_by_role("status")).to_have_text("It did not work: by: Field required")
    expect(field).to_have_value('{"bye": "Ann"}')
    field.fill('{"by": "Ann"}')
    panel.get_by_role("button", name="Send").click()
    expect(panel).to_contain_text('"True, said Ann"')
    expect(steps).to_have_count(3)


def test_a_schedule(page: Page) -> None:
    """A schedule is shown with its next run, and can be paused, resumed and run; a switch hides it.

    A link has the switch as it is.
    """
    line = page.locator("#card-schedules li").filter(has_text="daily")
    expect(line).to_contain_text(re.compile(r"in 23 h \d+ min"))
    line.get_by_role("button", name="Pause: daily").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("The schedule is paused")
    line.get_by_role("button", name="Resume: daily").click()
    expect(page.get_by_role("status")).to_have_text("The schedule goes on")
    line.get_by_role("button", name="Run now: daily").click()
    expect(row_of(page, "daily")).to_contain_text("Completed")
    switch = page.get_by_role("button", name="Hide scheduled")
    switch.focus()
    page.keyboard.press("Enter")
    expect(row_of(page, "daily")).to_have_count(0)
    expect(page).to_have_url(re.compile(r"\?scheduled=false$"))
    page.reload()
    expect(switch).to_have_attribute("aria-pressed", "true")
    expect(row_of(page, "daily")).to_have_count(0)
    switch.click()
    expect(row_of(page, "daily")).to_have_count(1)


def test_ten_thousand_tasks(page: Page, app: httpx.Client) -> None:
    """However long the list, the page has the rows on the screen, and new ones push none away."""
    app.post("/many/10000")
    page.get_by_role("combobox", name="Function").select_option("quick")
    grid = page.get_by_role("grid")
    expect(grid).to_have_attribute("aria-rowcount", re.compile("^1000[1-9]$"))
    page.keyboard.press("j")
    page.keyboard.press("End")
    page.keyboard.press("PageUp")
    chosen = page.locator("[role=row][aria-selected=true]")
    expect(chosen).to_contain_text(re.compile(r"number \d\d?\b"))
    text, box = chosen.locator(".text").text_content(), chosen.bounding_box()
    app.post("/many/300")
    newer = page.get_by_role("button", name="300 new tasks")
    expect(newer).to_be_visible()
    assert chosen.locator(".text").text_content() == text
    assert chosen.bounding_box() == box
    assert page.locator("#rows > *").count() < 60
    order = page.evaluate("[...document.querySelectorAll('#rows > *')].map(r => r.ariaRowIndex)")
    assert order == sorted(order, key=int)
    newer.click()
    expect(row_of(page, "number 299")).to_be_in_viewport()


def test_the_server_is_away(page: Page, app: httpx.Client) -> None:
    """While the server does not answer, the last tasks stay, with the time that they are of."""
    row = find(page, started(app, "/start/fails"))
    page.get_by_role("button", name=re.compile("^Failed")).click()
    page.locator("#bulk").click()
    page.context.set_offline(True)
    page.get_by_role("button", name="Run them").click()
    expect(page.get_by_role("status")).to_have_text(re.compile("^It stopped after 0 tasks: "))
    expect(page.locator("#bulk")).to_have_text("Run all again")
    expect(page.get_by_text("Not live")).to_be_visible()
    expect(page.locator("#notice")).to_have_text(
        re.compile(r"^The server does not answer\. You see the tasks as they were at [\d:]{8}\.$")
    )
    expect(row).to_contain_text("Failed")
    page.context.set_offline(False)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()


def test_a_hidden_page_asks_nothing(page: Page) -> None:
    """A page in the background costs the server nothing, and is up to date when it comes back."""
    page.clock.install()
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.clock.run_for(2_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(600_000)
    assert asked == []
    with page.expect_request("**/dashboard/list?*"):
        page.evaluate(
            "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))"
        )


def test_a_phone(page: Page, app: httpx.Client) -> None:
    """On the narrowest phone nothing is wider than the screen, and rows have two lines.

    They say what a task is about, also where it has failed.
    """
    page.set_viewport_size({"width": 360, "height": 740})
    expect(find(page, started(app, "/start/labelled"))).to_contain_text("order 7, ConnectionError")
    row = find(page, started(app, "/start/retried"))
    expect(row).to_contain_text("Next attempt")
    box = row.bounding_box()
    assert box is not None
    assert box["height"] == 62
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    row.click()
    panel = page.get_by_role("complementary").bounding_box()
    assert panel is not None
    assert panel["x"] >= 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def test_nobody_is_kept_out(page: Page, app: httpx.Client) -> None:
    """Axe finds nothing that keeps people out who see, hear or move less than others."""
    started(app, "/start/fails")
    found = {}
    page.get_by_role("button", name="Function", exact=True).click()
    expect(page.locator("#grouped li").filter(has_text="fails")).to_be_visible()
    for scheme, width in itertools.product(SCHEMES, (1280, 360)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 800})
        if (scheme, width) == ("light", 360):
            page.get_by_role("button", name="Overview").click()
        row = row_of(page, "fails")
        expect(row).to_be_attached()
        found[scheme, width, "list"] = barriers(page)
        row.dispatch_event("click")  # a notice of new tasks may cover it
        expect(page.get_by_role("complementary")).to_contain_text("Timeline")
        found[scheme, width, "details"] = barriers(page)
        page.keyboard.press("Escape")
        expect(page.get_by_role("complementary")).to_be_hidden()
    assert {where: some for where, some in found.items() if some} == {}


def barriers(page: Page) -> list[tuple[str, object, str]]:
    """Return what axe finds."""
    return [
        (rule["id"], node["target"], node["failureSummary"])
        for rule in Axe().run(page).response["violations"]
        for node in rule["nodes"]
    ]


def test_the_next_user(browser: Browser) -> None:
    """A page that is left open shows nothing of a user who has signed out, nor to the next one."""
    app = "tests.framework.apps.signed_in:app"
    with (
        serving(app, "--timeout-graceful-shutdown", "1") as served,
        browser.new_context() as context,
    ):
        opened, other = context.new_page(), context.new_page()
        for page in (opened, other):
            page.set_default_timeout(PATIENCE * 1_000)
        other.goto(f"{served.url}/sign-in/ann")
        other.goto(f"{served.url}/tell/pearls")
        opened.goto(f"{served.url}/tasks/dashboard")
        row_of(opened, "about pearls").click()
        panel = opened.get_by_role("complementary")
        expect(panel).to_contain_text('"pearls"')

        other.goto(f"{served.url}/sign-out")
        expect(opened.locator("#notice")).to_contain_text("sign in again")
        expect(opened.locator("body")).not_to_contain_text("pearls")

        other.goto(f"{served.url}/sign-in/ann")
        expect(panel).to_contain_text('"pearls"')
        other.goto(f"{served.url}/sign-in/bob")
        other.goto(f"{served.url}/tell/rubies")
        expect(row_of(opened, "about rubies")).to_be_visible()
        expect(opened.locator("body")).not_to_contain_text("pearls")
        expect(panel).to_contain_text("This task is not kept")
