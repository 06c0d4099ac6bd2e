"""The page as it is sent, and the facts that it asks for."""

from __future__ import annotations

import base64
import gc
import hashlib
import re
from enum import Enum
from typing import Any, Literal

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from framework import (
    background_task,
    retry_task,
    scheduled_task,
    setup_async_framework,
    throttled_task,
)
from framework._records import reasons
from framework._records.records import TaskRecord
from framework._tasks.task import Task
from framework.http import task_router
from framework.http.dashboard import _facts
from framework.http.dashboard._steps import questions_of
from framework.steps import Message, sleep, step
from pytest_asyncframe.probe import Probe
from tests.framework.http.refused import Refusal, not_refused

MOST = 80_000


def made(**options: Any) -> FastAPI:
    """Return an app with the routes."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router(**options))
    return app


def test_the_page_is_small_and_complete() -> None:
    """The page is one file of less than 80 kB, without comments, and names no other one."""
    answer = TestClient(made()).get("/tasks/dashboard")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert len(answer.content) < MOST
    assert "\n// " not in answer.text
    assert re.findall(r"""(?:src|href)=["']?(?!data:|#|\$)[^"'\s>]+""", answer.text) == []


def test_the_policy_allows_what_the_page_has() -> None:
    """Scripts and styles other than those of the page are refused, and so is a frame around it."""
    answer = TestClient(made()).get("/tasks/dashboard")
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_is_sent_once() -> None:
    """A browser that has the page is told so, and HEAD tells its length."""
    client = TestClient(made())
    first = client.get("/tasks/dashboard")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/tasks/dashboard", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head("/tasks/dashboard")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(first.content))


async def test_what_is_known_is_not_sent_again(asyncframe: Probe) -> None:
    """As long as nothing has changed, the page is told so instead of all facts again."""
    paths = ("/tasks/dashboard/list", "/tasks/dashboard/facts")
    async with asyncframe.client(made()) as client:
        known = {}
        for path in paths:
            first = await client.get(path)
            assert first.headers["cache-control"] == "no-store"
            known[path] = {"If-None-Match": first.headers["etag"]}
            again = await client.get(path, headers=known[path])
            assert (again.status_code, again.content) == (304, b""), path
        send("x")
        await asyncframe.settled()
        newer = [(await client.get(path, headers=known[path])).status_code for path in paths]
        assert newer == [200, 200]


def test_the_page_is_not_in_the_schema() -> None:
    """OpenAPI has nothing of the page, which may change with each release."""
    assert not [path for path in made().openapi()["paths"] if "dashboard" in path]


@background_task
@throttled_task(rate_limit=3)
async def send(text: str) -> str:
    """Return the text."""
    return text


@background_task(name="tests.end_as_told")
async def end_as_told(fails: bool) -> None:
    """Fail, or end at once."""
    if fails:
        raise ValueError("as told")


@background_task(name="tests.wait_for_long")
async def wait_for_long() -> None:
    """Wait for a day."""
    await sleep(86_400)


@pytest.fixture
def roll_up() -> Any:
    """Give a schedule; at the top of the module, it would run in all tests of this process."""

    @scheduled_task(every=60)
    async def roll_up() -> None:
        """Do nothing."""

    yield roll_up
    gc.collect()


def caller(request: Request) -> str | None:
    """Return who asks."""
    return request.headers.get("x-user")


async def test_owners_see_their_own(roll_up: Any, asyncframe: Probe) -> None:
    """An owner sees nothing of others: no task, no count, no throttle, schedule or thread."""
    app = made(owner=caller)
    app.post("/send")(send)
    async with asyncframe.client(app) as client:
        for user in ("anna", "bert"):
            for _ in range(1 + (user == "bert")):
                await client.post(f"/send?text={user}", headers={"X-User": user})
        await asyncframe.settled()

        async def told(path: str, user: str | None) -> Any:
            headers = {} if user is None else {"X-User": user}
            answer = await client.get(f"/tasks/dashboard/{path}", headers=headers)
            return answer.json()

        rows = (await told("list", "anna"))["rows"]
        facts = await told("facts", "anna")
        (foreign,) = {row["id"] for row in (await told("list", "bert"))["rows"][:1]}
        assert len(rows) == facts["counts"]["completed"] == 1
        assert facts.keys() == {"counts", "latest", "names", "buttons"}
        assert len(facts["latest"]) == 1
        assert await told("list", None) == {"total": 0, "rows": []}
        assert sum((await told("facts", None))["counts"].values()) == 0
        assert await told(f"details/{foreign}", "anna") == await told("details/unknown", "anna")
        paused = await client.post(
            "/tasks/dashboard/schedules/pause?name=roll_up", headers={"X-Requested-With": "x"}
        )
        assert paused.status_code == 404


async def test_all_that_match_are_changed_in_parts(asyncframe: Probe) -> None:
    """Of the tasks that match, an owner cancels or runs again their own, a hundred at a time."""
    app, headers = made(owner=caller), {"X-Requested-With": "x", "X-User": "anna"}
    app.post("/send")(wait_for_long)
    async with asyncframe.client(app) as client:
        for at in range(104):
            await client.post("/send", headers={"X-User": "bert" if at % 26 == 0 else "anna"})
        path = "/tasks/dashboard/all/{}?name=tests.wait_for_long"
        refused = await client.post(path.format("cancel"), headers={"X-User": "anna"})
        nothing = (await client.post(path.format("run-again"), headers=headers)).json()
        first = (await client.post(path.format("cancel"), headers=headers)).json()
        last = (await client.post(path.format("cancel"), headers=headers)).json()
        again = (await client.post(path.format("run-again"), headers=headers)).json()
        left = (await asyncframe.manager.list_tasks(owner="bert")).tasks
        await client.post(path.format("cancel"), headers=headers)
        await client.post(path.format("cancel"), headers={**headers, "X-User": "bert"})
    assert refused.status_code == 403
    assert (nothing["done"], first["done"], last["done"], last["next"]) == (0, 100, 0, None)
    assert (again["done"], len(set(again["new"])), again["refused"]) == (100, 100, 0)
    assert (len(left), [one for one in left if one.status.is_final]) == (4, [])


async def test_the_course_of_time(asyncframe: Probe) -> None:
    """The page has how many tasks of an owner started and ended when, and lists those of some."""
    app, headers = made(owner=caller), {"X-User": "anna"}
    app.post("/send")(end_as_told)
    async with asyncframe.client(app) as client:

        async def told(path: str) -> Any:
            return (await client.get(f"/tasks/dashboard/{path}", headers=headers)).json()

        for fails, user in ((True, "anna"), (False, "anna"), (False, "bert")):
            await client.post(f"/send?fails={fails}", headers={"X-User": user})
            await asyncframe.settled()
            asyncframe.clock.advance(120)
        hour, week = await told("course"), await told("course?span=week&name=nobody")
        at = hour["failed"].index(1)
        begin = hour["since"] + at * hour["width"]
        listed = await told(f"list?ended={begin}-{begin + 60}")
        none = await told(f"list?ended={begin + 60}-{begin + 120}")
    assert (hour["width"], len(hour["failed"]), hour["completed"][at + 2]) == (60, 60, 1)
    assert [sum(hour[kind]) for kind in ("completed", "failed", "other")] == [1, 1, 0]
    assert (hour["started"][at], hour["started"][at + 2], sum(hour["started"])) == (1, 1, 2)
    assert (week["width"], len(week["other"]), sum(week["completed"])) == (7_200, 84, 0)
    assert ([row["status"] for row in listed["rows"]], none["total"]) == (["failed"], 0)
    asyncframe.expect_failure(end_as_told, ValueError)


async def test_groups(asyncframe: Probe) -> None:
    """The page counts what waits, runs and failed of each function, label and owner, and lists it.

    It lists by meta too. An owner sees groups of their own tasks alone, and none by owner.
    """
    app, every = FastAPI(lifespan=setup_async_framework), {"X-User": "anna"}
    app.include_router(task_router(owner=caller))
    app.include_router(task_router(), prefix="/all")

    @app.post("/send")
    def send_some(label: str, fails: bool) -> None:
        wait_for_long.options(label=label, meta={"order": 2**53 + 1, "share": 7.0})()
        end_as_told.options(label=label)(fails)

    async with asyncframe.client(app) as client:
        for user, label, fails in (("anna", "a", True), ("anna", "b", False), ("bert", "b", True)):
            await client.post(f"/send?label={label}&fails={fails}", headers={"X-User": user})
        await asyncframe.clock.run_for(0)

        async def told(path: str) -> Any:
            return (await client.get(path, headers=every)).json()

        both, own = "/all/tasks/dashboard", "/tasks/dashboard"
        by_label = await told(f"{both}/groups?by=label")
        by_name = await told(f"{both}/groups?by=name&label=b")
        by_owner = await told(f"{both}/groups?by=owner&search=told")
        alone = await told(f"{own}/groups?by=label&owner=bert")
        refused = await client.get(f"{own}/groups?by=owner", headers=every)
        unprintable = await client.get(f"{both}/list?owner=%00")
        listed = await told(f"{both}/list?owner=bert&label=b")
        mine = await told(f"{own}/list?owner=bert&label=b")
        one, two = [await told(f'{own}/list?meta={{"share":{share}}}') for share in ("7.0", "7")]
        details = await told(f"{own}/details/{one['rows'][0]['id']}")
        await client.post(
            f"{both}/all/cancel?name=tests.wait_for_long", headers={"X-Requested-With": "x"}
        )
    assert by_label == {"groups": [["b", 0, 2, 1], ["a", 0, 1, 1]], "left": 0}
    assert by_name["groups"] == [["tests.end_as_told", 0, 0, 1], ["tests.wait_for_long", 0, 2, 0]]
    assert sorted(by_owner["groups"]) == [["anna", 0, 0, 1], ["bert", 0, 0, 1]]
    assert alone["groups"] == [["a", 0, 1, 1], ["b", 0, 1, 0]]
    assert (refused.status_code, unprintable.status_code) == (422, 422)
    assert (listed["total"], mine["total"], one["total"], two["total"]) == (2, 2, 2, 0)
    assert details["view"]["meta"] == {"order": "9007199254740993", "share": "7.0"}
    assert not {row["id"] for row in mine["rows"]} & {row["id"] for row in listed["rows"]}
    asyncframe.expect_failure(end_as_told, ValueError, times=2)


async def test_who_sees_all(roll_up: Any, asyncframe: Probe) -> None:
    """Without owners the page shows throttles with their calls, and schedules; or hides their runs.

    Its list, its counts and the course of time then have the other tasks.
    """
    app = made()
    async with asyncframe.client(app) as client:
        for _ in range(4):
            send("x")
        await asyncframe.settled()
        facts = (await client.get("/tasks/dashboard/facts")).json()
        (name,) = [one["name"] for one in facts["schedules"] if one["name"].endswith("roll_up")]
        await asyncframe.manager.schedules.trigger(name)
        await asyncframe.settled()

        async def told(path: str) -> Any:
            return (await client.get(f"/tasks/dashboard/{path}")).json()

        for scheduled, many in (("true", 4), ("false", 3)):
            course = await told(f"course?scheduled={scheduled}")
            figures = await told(f"facts?scheduled={scheduled}")
            listed = await told(f"list?scheduled={scheduled}&status=completed")
            assert sum(course["completed"]) == figures["counts"]["completed"] == many
            assert listed["total"] == many
            assert (name in [row["name"] for row in listed["rows"]]) is (scheduled == "true")
    (throttle,) = facts["throttles"]
    assert (throttle["used"], throttle["rate"], throttle["full"]) == (3, 3, 1)
    assert throttle["next"] is not None
    assert facts["process"]["abandoned"] == 0
    assert "processes" not in facts
    asyncframe.expect_failure(send, Exception)


@background_task
@throttled_task(rate_limit=1, key=lambda user: user)
async def greet(user: str) -> None:
    """Do nothing."""


async def test_a_throttle_with_keys(asyncframe: Probe) -> None:
    """A throttle with keys is one line: how many keys there are, and how many are full."""
    async with asyncframe.client(made()) as client:
        for user in ("anna", "bert"):
            greet(user)
        await asyncframe.settled()
        facts = (await client.get("/tasks/dashboard/facts")).json()
    (throttle,) = facts["throttles"]
    assert (throttle["keys"], throttle["full"], throttle["waiting"]) == (2, 2, 0)


async def test_throttles_of_other_processes(asyncframe: Probe) -> None:
    """Where the calls of all processes are counted, the tasks that wait tell of the throttle."""

    def waiting(until: float | None) -> Task:
        record = TaskRecord()
        record.rest = None
        record.reason = reasons.throttled(until, "shop.mail", 5, 60.0)
        return Task(record)

    policies = asyncframe.manager._core.policies
    live = [waiting(None), waiting(7.0), waiting(3.0)]
    (throttle,) = _facts._throttles(policies, live)
    assert (throttle["name"], throttle["rate"], throttle["window"]) == ("shop.mail", 5, 60.0)
    assert (throttle["used"], throttle["waiting"], throttle["next"]) == (None, 3, 3.0)


async def test_what_a_task_waits_for(asyncframe: Probe) -> None:
    """A wait that ends at a known time is told in parts, with the kind of the error alone.

    Its seconds count as waited and not as run, also if the task is cancelled meanwhile.
    """

    @background_task
    @retry_task(max_retries=2, retry_delay=10, jitter=0)
    def pay() -> None:
        if asyncframe.clock.monotonic() < 10:
            raise ConnectionError("4000 0000 0000 0002")

    @background_task
    @throttled_task(rate_limit=1, time_window=60, when_limited="wait")
    def mail() -> None:
        """Do nothing."""

    async with asyncframe.client(made()) as client:
        now = asyncframe.clock.time()
        ids = [await asyncframe.manager.submit(greet, ("eve",), delay=20), mail(), mail(), pay()]
        cancelled = mail()
        await asyncframe.clock.run_for(1)
        rows = (await client.get("/tasks/dashboard/list")).json()["rows"]
        waits = {row["id"]: row["wait"] for row in rows}
        for wait in filter(None, waits.values()):
            wait["until"] = round(wait["until"] - now)
        assert [waits[one] for one in ids] == [
            {"kind": "delayed", "until": 20},
            None,
            {"kind": "throttled", "until": 60, "name": f"{__name__}.{mail.fn.__qualname__}"},
            {
                "kind": "retrying",
                "until": 10,
                "attempt": 1,
                "attempts": 3,
                "error": "ConnectionError",
            },
        ]
        assert {row["id"]: row["asleep"] for row in rows}[ids[2]] == now
        await asyncframe.manager.request_cancel(cancelled)
        await asyncframe.settled()
        rows = (await client.get("/tasks/dashboard/list")).json()["rows"]
        slept = {row["id"]: row["slept"] for row in rows}
        assert [slept[one] for one in (*ids, cancelled)] == [0, 0, 60, 10, 1]
        latest = (await client.get("/tasks/dashboard/facts")).json()["latest"]
        assert sorted(latest) == [
            ["cancelled", 1, 0],
            ["completed", 0, 0],
            ["completed", 10, 0],
            ["completed", 20, 0],
            ["completed", 60, 0],
        ]


class Size(Enum):
    """What a parcel is."""

    SMALL = "small"
    LARGE = "large"


YES, NO = ["Yes", "true"], ["No", "false"]
QUESTIONS: list[tuple[Any, list[list[str]], bool]] = [
    (bool, [YES, NO], False),
    (Size, [["small", '"small"'], ["large", '"large"']], True),
    (Literal["by hand", 7], [["by hand", '"by hand"'], ["7", "7"]], False),
    (Literal["only"], [["only", '"only"']], True),
    (Literal[1, 2, 3, 4, 5, 6, 7], [], False),
    (str, [], True),
    (dict[str, int], [], False),
]
"""A type, the buttons for it, and whether what is written for it is no JSON."""


def test_how_a_message_is_asked_for() -> None:
    """A message of few values has a button for each, and any other a field."""
    for type_, choices, plain in QUESTIONS:
        asked = questions_of([Message("m", type_)])
        assert asked == {"m": {"choices": choices, "plain": plain}}, type_


async def test_steps_of_a_task(asyncframe: Probe) -> None:
    """The details have the steps by their beginning, and ask for the message that is waited for."""
    approval, other = Message("approval", bool), Message("other", bool)

    @step
    async def charge() -> None:
        raise ConnectionError("the password is hunter2")

    @background_task(on_restart="resume", name="tests.fulfils_an_order")
    async def fulfil() -> object:
        try:
            await charge()
        except ConnectionError:
            await sleep(2)
        await other.receive(timeout=1)
        return await approval.receive(timeout=3_600)

    async with asyncframe.client(made(messages=[approval])) as client:
        task_id, begun = fulfil(), asyncframe.clock.time()

        async def details() -> tuple[list[Any], int, list[Any]]:
            shown = (await client.get(f"/tasks/dashboard/details/{task_id}")).json()
            steps = [
                (one["name"].rpartition(".")[2], one["state"], one["error"], one["asks"])
                for one in shown["steps"]
            ]
            ends = [one["ended"] and round(one["ended"] - begun) for one in shown["steps"]]
            return steps, shown["left"], ends

        failed = ("charge", "failed", "ConnectionError", None)
        await asyncframe.clock.run_for(1)
        assert await details() == ([failed, ("sleep", "waiting", None, None)], 0, [0, None])
        await asyncframe.clock.run_for(4)
        slept = ("sleep", "completed", None, None)
        missed = ("receive other", "completed", None, None)
        asks = ("receive approval", "waiting", None, {"choices": [YES, NO], "plain": False})
        assert await details() == ([failed, slept, missed, asks], 0, [0, 2, 3, None])
        mark = {"X-Requested-With": "tests"}
        sent = await client.post(f"/tasks/{task_id}/messages/approval", json=True, headers=mark)
        assert sent.status_code == 202
        assert await asyncframe.manager.get_result(task_id) is True
        assert [asked for *_, asked in (await details())[0]] == [None] * 4


async def test_counts_after_a_clean_up(asyncframe: Probe) -> None:
    """The counts are those of the list, also when tasks have been forgotten."""
    async with asyncframe.client(made()) as client:
        for user in ("anna", "bert", "carl"):
            greet(user)
        await asyncframe.settled()
        assert asyncframe.manager.cleanup_completed_tasks(max_age=0) == 3
        greet("dora")
        await asyncframe.settled()
        counts = (await client.get("/tasks/dashboard/facts")).json()["counts"]
        total = (await client.get("/tasks/dashboard/list")).json()["total"]
    assert sum(counts.values()) == counts["completed"] == total == 1


def test_buttons() -> None:
    """Buttons call the app where it is, also behind a proxy that adds to its paths."""
    for root in ("", "/behind/a/proxy"):
        app = made(buttons={"Report": "/reports"})
        with TestClient(app, root_path=root) as client:
            told = client.get("/tasks/dashboard/facts").json()
        assert told["buttons"] == [{"label": "Report", "path": f"{root}/reports"}]


def refused(buttons: Any, error: type[Exception], message: str) -> Refusal:
    """Return how buttons are refused."""
    return {"buttons": buttons}, error, message


REFUSED = [
    refused(["/x"], TypeError, r"buttons must be a dict such as .*, not \['/x'\]"),
    refused({"": "/x"}, ValueError, r"a label of buttons must .*"),
    refused({"A": 5}, TypeError, r"buttons\['A'\] must be a string, not 5"),
    *(
        refused({"A": path}, ValueError, r"buttons\['A'\] must be the path of a route .*")
        for path in ("reports", "//evil.example", "/\\evil.example")
    ),
]


def test_bad_buttons() -> None:
    """Buttons that could call another site, or nothing, are refused."""
    assert not_refused(task_router, REFUSED) == []


def test_bad_queries() -> None:
    """What the list cannot be asked for is a mistake of the request."""
    bad = ["limit=0", "limit=201", "offset=-1", "status=lost", f"search={'x' * 256}", "limit=nan"]
    bad += ["meta=[]", "meta={", 'meta={"no name":1}']
    with TestClient(made()) as client:
        found = {query: client.get(f"/tasks/dashboard/list?{query}").status_code for query in bad}
    assert found == dict.fromkeys(bad, 422)
