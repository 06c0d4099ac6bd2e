"""Run a task for each of many items, a few at a time, or one task after another."""

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import (
    TaskId,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)

app = FastAPI(lifespan=setup_async_framework)


def thumbnail(picture: str) -> str:
    """Make one thumbnail."""
    if not picture.endswith(".png"):
        raise ValueError(f"{picture} is no picture")
    return picture.replace(".png", "-small.png")


@background_task
async def thumbnails(pictures: list[str]) -> dict[str, str]:
    """Make a thumbnail of each picture, eight at a time; name what is wrong with the others."""
    made, task = {}, current_task()
    run = get_task_manager().map(thumbnail, pictures, max_running=8, priority="low")
    async for one in run:
        try:
            made[one.item] = one.result()
        except ValueError as error:
            made[one.item] = str(error)
        if task is not None:
            task.report_progress(run.ended / len(pictures), one.item)
    return made


@app.post("/thumbnails", status_code=202)
async def start(pictures: list[str]) -> TaskId[dict[str, str]]:
    """Start with the pictures."""
    return thumbnails(pictures)


@async_task(priority="high")
def price(item: str) -> int:
    """Look up a price, before the thumbnails that wait."""
    return len(item)


@app.post("/notices", status_code=202)
async def notices(customers: list[str]) -> list[TaskId[str]]:
    """Tell all customers, or none if the queue has not room for all."""
    return await get_task_manager().submit_many(greet, customers)


@background_task
def greet(customer: str) -> str:
    """Tell one customer."""
    return f"hello {customer}"


@app.get("/prices")
async def prices(item: list[str]) -> dict[str, int]:
    """Look up several prices side by side."""
    manager = get_task_manager()
    ids = [await manager.submit(price, (one,)) for one in item]
    return dict(zip(item, await manager.gather(ids), strict=True))


@app.post("/all-thumbnails")
async def make_all(pictures: list[str]) -> list[str]:
    """Make a thumbnail of each picture, or fail with the first that is none."""
    return await get_task_manager().map(thumbnail, pictures, max_running=8)


@background_task
def notify(customer: str, invoice: str) -> str:
    """Tell a customer that the invoice is there."""
    return f"{invoice} sent to {customer}"


@background_task
@retry_task(max_retries=3)
def make_invoice(customer: str) -> TaskId[str]:
    """Make an invoice, and then start what comes after it."""
    invoice = f"{customer}.pdf"
    return notify.options(description=f"invoice of {customer}")(customer, invoice)


@background_task
def sum_up(month: int) -> int:
    """Return the turnover of a month."""
    return 100 * month


@background_task
async def make_report(first: int, second: int) -> str:
    """Do several steps in order: two at the same time, then a third with their results."""
    manager = get_task_manager()
    turnovers = await manager.gather([sum_up(first), sum_up(second)])
    sent = notify("the boss", f"{sum(turnovers)}.pdf")
    return await manager.get_result(sent)


def test_each_picture_gets_a_thumbnail() -> None:
    """A bad picture does not stop the others, and the last progress is 1."""
    with TestClient(app) as client:
        task_id = client.post("/thumbnails", json=["a.png", "b.txt"]).json()
        manager = app.state.task_manager
        made = manager.wait_result(task_id, timeout=60)
        assert made == {"a.png": "a-small.png", "b.txt": "b.txt is no picture"}
        assert manager.get_all_tasks()[task_id]["progress"] == 1.0


def test_an_awaited_map_gives_all_results() -> None:
    """The results stand where the pictures stood."""
    with TestClient(app) as client:
        answer = client.post("/all-thumbnails", json=["a.png", "b.png"])
        assert answer.json() == ["a-small.png", "b-small.png"]


def test_all_customers_are_told() -> None:
    """The ids stand where the customers stood."""
    with TestClient(app) as client:
        ids = client.post("/notices", json=["ann", "bob"]).json()
        manager = app.state.task_manager
        assert [manager.wait_result(one, timeout=60) for one in ids] == ["hello ann", "hello bob"]


def test_prices_come_in_order() -> None:
    """The results stand where their ids stood."""
    with TestClient(app) as client:
        answer = client.request("GET", "/prices", json=["tea", "coffee"])
        assert answer.json() == {"tea": 3, "coffee": 6}


def test_a_task_starts_the_next() -> None:
    """The result of the first is the id of the second."""
    with TestClient(app):
        manager = app.state.task_manager
        following = manager.wait_result(manager.submit_nowait(make_invoice, ("ann",)), timeout=60)
        assert manager.wait_result(following, timeout=60) == "ann.pdf sent to ann"
        assert manager.get_all_tasks()[following]["description"] == "invoice of ann"


def test_a_task_that_does_several_steps() -> None:
    """Its result is that of the last step."""
    with TestClient(app):
        manager = app.state.task_manager
        report = manager.submit_nowait(make_report, (1, 2))
        assert manager.wait_result(report, timeout=60) == "300.pdf sent to the boss"
