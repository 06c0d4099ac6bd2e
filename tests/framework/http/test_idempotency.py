"""Requests that are repeated with the same Idempotency-Key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response

from framework import (
    TaskStatus,
    async_task,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework.http import Accepted, TaskView, task_router
from pytest_asyncframe.probe import Probe
from tests.framework.http.reports import Report, make_report


def made(create: Any, **options: Any) -> FastAPI:
    """Return an app whose accepting route has the function *create*."""
    app = FastAPI(lifespan=setup_async_framework)
    app.post("/reports")(create)
    app.post("/other")(create)
    app.include_router(task_router(**options))
    return app


async def in_a_coroutine(title: str) -> Accepted[Report]:
    """Submit on the loop."""
    return make_report(title)


def in_a_thread(title: str) -> Accepted[Report]:
    """Submit on a thread."""
    return make_report(title)


async def patiently(title: str) -> Accepted[Report]:
    """Submit with an await."""
    return await get_task_manager().submit(make_report, (title,))


async def as_plain_function(title: str) -> Accepted[Report]:
    """Submit an undecorated function, with an option."""
    return get_task_manager().submit_nowait(make_report.fn, (title,), description="plain")


async def post(client: Any, key: str | None = "k1", path: str = "/reports", **headers: str) -> Any:
    """Return the response to a request with a key."""
    if key is not None:
        headers["Idempotency-Key"] = key
    return await client.post(path, params={"title": "Q3"}, headers=headers)


async def test_the_same_key(asyncframe: Probe) -> None:
    """A request that is repeated gets the id of the first one, which also has its own URL."""
    ways = (in_a_coroutine, in_a_thread, patiently, as_plain_function)
    found = {}
    for create in ways:
        async with asyncframe.client(made(create)) as client:
            first = await post(client, create.__name__)
            again = await post(client, create.__name__)
            await asyncframe.completed(first)
        found[create.__name__] = (
            *(first.status_code, again.status_code),
            *(again.json() == first.json(), again.headers == first.headers),
        )
    assert found == {create.__name__: (202, 202, True, True) for create in ways}
    assert len(asyncframe.submitted(make_report.fn)) == len(ways)


async def test_after_the_end(asyncframe: Probe) -> None:
    """A request that is repeated after the task has ended gets its id, and how it stands."""
    async with asyncframe.client(made(in_a_coroutine)) as client:
        first = await post(client)
        await asyncframe.completed(first)
        again = await post(client)
        assert len(asyncframe.submitted(make_report)) == 1
    assert again.status_code == 202
    assert again.json() == {**first.json(), "status": "completed"}
    assert again.headers["retry-after"] == "0"


async def test_a_task_that_was_removed(asyncframe: Probe) -> None:
    """A key is kept as long as its task: a later request submits another one."""
    async with asyncframe.client(made(in_a_coroutine)) as client:
        await asyncframe.completed(await post(client))
        asyncframe.manager.cleanup_completed_tasks(0)
        await asyncframe.completed(await post(client))
        assert len(asyncframe.submitted(make_report)) == 2


async def test_other_keys_and_routes(asyncframe: Probe) -> None:
    """Another key, no key, another method or another path is another task."""
    app = made(in_a_coroutine)
    app.put("/reports")(in_a_coroutine)
    async with asyncframe.client(app) as client:
        put = client.put("/reports", params={"title": "Q3"}, headers={"Idempotency-Key": "k1"})
        responses = [
            await post(client),
            await post(client, "k2"),
            await post(client, None),
            await post(client, None),
            await post(client, path="/other"),
            await put,
        ]
        for response in responses:
            await asyncframe.completed(response)
    assert len({one.json()["task_id"] for one in responses}) == 6


async def test_quotes(asyncframe: Probe) -> None:
    """A key in quotes, as the draft writes it, is the same as without them."""
    async with asyncframe.client(made(in_a_coroutine)) as client:
        plain, quoted = await post(client, "abc"), await post(client, '"abc"')
        await asyncframe.completed(plain)
    assert plain.json() == quoted.json()


async def test_bad_keys(asyncframe: Probe) -> None:
    """A key that is empty, longer than 255 characters or not printable is refused."""
    found = {}
    async with asyncframe.client(made(in_a_coroutine)) as client:
        for key in ("", "x" * 256, "caf\xe9", "a\tb"):
            headers = {"Idempotency-Key": key.encode("latin-1")}
            response = await client.post("/reports", params={"title": "Q3"}, headers=headers)
            places = [problem["loc"] for problem in response.json()["detail"]]
            found[key] = (response.status_code, places)
    assert found == dict.fromkeys(found, (422, [["header", "Idempotency-Key"]]))


async def test_the_longest_key(asyncframe: Probe) -> None:
    """A key of 255 characters is good."""
    async with asyncframe.client(made(in_a_coroutine)) as client:
        first, again = await post(client, "~" * 255), await post(client, "~" * 255)
        await asyncframe.completed(first)
    assert first.json() == again.json()


async def test_at_the_same_moment(asyncframe: Probe) -> None:
    """Of requests with one key at the same moment, one runs the route, and all get its id."""
    arrived, all_arrived, calls = [], asyncio.Event(), []

    async def arrive() -> None:
        arrived.append(1)
        if len(arrived) == 5:
            all_arrived.set()

    async def create(title: str, _: None = Depends(arrive)) -> Accepted[Report]:
        calls.append(title)
        await all_arrived.wait()
        return make_report(title)

    async with asyncframe.client(made(create)) as client:
        responses = await asyncio.gather(*(post(client) for _ in range(5)))
        await asyncframe.completed(responses[0])
    assert calls == ["Q3"]
    assert len({one.json()["task_id"] for one in responses}) == 1
    assert {one.status_code for one in responses} == {202}


async def test_a_route_that_fails(asyncframe: Probe) -> None:
    """After an error before the submission, the same key runs the route once more."""
    failing = [True]

    async def create(title: str) -> Accepted[Report]:
        if failing.pop():
            raise HTTPException(409)
        return make_report(title)

    async with asyncframe.client(made(create)) as client:
        refused = await post(client)
        failing.append(False)
        accepted = await post(client)
        await asyncframe.completed(accepted)
    assert (refused.status_code, accepted.status_code) == (409, 202)


async def test_a_refused_submission(asyncframe: Probe) -> None:
    """A submission that a full queue refuses leaves the key as if it had not been used."""
    asyncframe.faults.queue_full(next=1)
    async with asyncframe.client(made(in_a_coroutine)) as client:
        refused, accepted = await post(client), await post(client)
        again = await post(client)
        await asyncframe.completed(accepted)
    assert (refused.status_code, accepted.status_code) == (503, 202)
    assert again.json()["task_id"] == accepted.json()["task_id"]


async def test_a_failed_task(asyncframe: Probe) -> None:
    """A task that failed is not run again by the same key."""

    @background_task
    def fail() -> None:
        raise ValueError

    async def create(title: str) -> Accepted[None]:
        return fail()

    async with asyncframe.client(made(create)) as client:
        first = await post(client)
        task = await asyncframe.completed(first, check=False)
        again = await post(client)
    assert isinstance(task.error, ValueError)
    assert again.json() == {**first.json(), "status": "failed"}


@pytest.mark.parametrize("order", ["before", "after", "view"])
async def test_others_do_not_get_it(asyncframe: Probe, order: str) -> None:
    """A key means something only to the owner who has used it, whichever router comes first."""

    def owner(request: Request) -> str | None:
        return request.headers.get("X-User")

    app = FastAPI(lifespan=setup_async_framework)
    app.post("/reports")(in_a_coroutine)
    own, whole = task_router(owner=owner), task_router(prefix="/admin")
    if order == "view":

        @app.get("/view/{task_id}")
        async def view(task_id: str) -> TaskView[Report]:
            raise NotImplementedError(task_id)

    for router in [whole, own] if order == "after" else [own, whole]:
        app.include_router(router)
    async with asyncframe.client(app) as client:
        ann = await post(client, **{"X-User": "ann"})
        ann_again = await post(client, **{"X-User": "ann"})
        bob = await post(client, **{"X-User": "bob"})
        nobody = await post(client)
        for response in (ann, bob, nobody):
            await asyncframe.completed(response)
    ids = [one.json()["task_id"] for one in (ann, ann_again, bob, nobody)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert bob.headers["location"] == f"/tasks/{ids[2]}"


async def test_checks_come_first(asyncframe: Probe) -> None:
    """A repeated request is checked like the first one: for who asks, and for its parameters."""

    def login(request: Request) -> str:
        if "Authorization" not in request.headers:
            raise HTTPException(401)
        return "ann"

    async def create(title: str, user: str = Depends(login)) -> Accepted[Report]:
        return make_report(title)

    async with asyncframe.client(made(create)) as client:
        first = await post(client, Authorization="yes")
        refused = await post(client)
        invalid = await client.post(
            "/reports", headers={"Idempotency-Key": "k1", "Authorization": "yes"}
        )
        await asyncframe.completed(first)
    assert (first.status_code, refused.status_code, invalid.status_code) == (202, 401, 422)


async def test_awaited_tasks_before(asyncframe: Probe) -> None:
    """A task that the route awaits does not take the key; the first that it submits does."""

    @async_task
    async def look_up(title: str) -> str:
        return title

    @async_task
    def look_up_in_thread(title: str) -> str:
        return title

    async def create(title: str) -> Accepted[Report]:
        await look_up(title)
        await look_up_in_thread(title)
        return make_report(title)

    async with asyncframe.client(made(create)) as client:
        first, again = await post(client), await post(client)
        await asyncframe.completed(first)
        assert len(asyncframe.submitted(make_report)) == 1
    assert again.json()["task_id"] == first.json()["task_id"]


async def test_tasks_of_the_task(asyncframe: Probe) -> None:
    """What the task itself submits has ids of its own."""

    @background_task
    def outer(title: str) -> str:
        return make_report(title)

    async def create(title: str) -> Accepted[str]:
        return outer(title)

    async with asyncframe.client(made(create)) as client:
        task = await asyncframe.completed(await post(client))
        inner = await asyncframe.completed(task.result)
    assert inner.task_id != task.task_id


async def test_a_unique_task(asyncframe: Probe) -> None:
    """A unique task gets the key's id, and a request with another key gets that task too."""
    unique = make_report.options(unique=True)

    async def create(title: str) -> Accepted[Report]:
        return unique(title)

    async with asyncframe.client(made(create)) as client:
        first, second = await post(client), await post(client, "k2")
        await asyncframe.completed(first)
        again = await post(client)
    assert first.json() == second.json()
    assert again.json() == {**first.json(), "status": TaskStatus.COMPLETED}


@pytest.mark.parametrize("own", [None, "own"])
async def test_another_task_than_the_first(
    asyncframe: Probe, caplog: pytest.LogCaptureFixture, own: str | None
) -> None:
    """A route that returns another task than it first submits is told once that keys fail."""

    async def create(title: str) -> Accepted[Report]:
        if own is not None:
            return await get_task_manager().submit(make_report, (title,), task_id=own + title)
        make_report(title)
        return make_report(title)

    async with asyncframe.client(made(create)) as client:
        for title in "ab":
            response = await client.post(
                "/reports", params={"title": title}, headers={"Idempotency-Key": title}
            )
            await asyncframe.completed(response)
        await asyncframe.settled()
    told = [one.getMessage() for one in caplog.records if "Idempotency-Key" in one.getMessage()]
    (line,) = told
    assert line == (
        "POST /reports: Idempotency-Key has no effect on the task that the route returns: it must "
        "be the first one that the route submits, without a task_id of its own"
    )


async def test_a_complete_response(asyncframe: Probe) -> None:
    """A complete response of the route is no matter of the key."""

    async def create(title: str) -> Accepted[Report]:
        return Response("no")  # type: ignore[return-value]  # FastAPI allows it everywhere

    async with asyncframe.client(made(create)) as client:
        assert (await post(client)).text == (await post(client)).text == "no"


def test_openapi() -> None:
    """OpenAPI has the header, of accepting routes alone."""
    app = made(in_a_coroutine)

    @app.get("/plain")
    async def plain() -> None:
        """Answer nothing."""

    paths = app.openapi()["paths"]
    names = [one["name"] for one in paths["/reports"]["post"]["parameters"]]
    assert names == ["title", "Idempotency-Key"]
    assert "parameters" not in paths["/plain"]["get"]
