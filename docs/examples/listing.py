"""List tasks: in pages, by what they are, and for a table with page numbers."""

from contextlib import suppress
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.testclient import TestClient

from framework import (
    TaskManager,
    TaskStatus,
    background_task,
    get_task_manager,
    setup_async_framework,
)

app = FastAPI(lifespan=setup_async_framework)


@background_task(name="make_report")
def make_report(year: int) -> str:
    """Make a report; there is none before 2000."""
    if year < 2000:
        raise LookupError(year)
    return f"report of {year}"


async def names_of(manager: TaskManager, status: TaskStatus) -> list[str]:
    """Return the names of all tasks with one status, read in pages."""
    page = await manager.list_tasks(status=status, limit=20)
    names = [task.name for task in page.tasks]
    while page.next is not None:
        page = await manager.list_tasks(status=status, limit=20, after=page.next)
        names += [task.name for task in page.tasks]
    return names


@app.get("/admin/reports")
async def table(page: Annotated[int, Query(ge=1)] = 1, search: str = "") -> dict[str, Any]:
    """Return one page of a table of ten rows, and how many pages there are."""
    found = await get_task_manager().list_tasks(
        name="make_report",
        status=("completed", "failed"),
        search=search,
        limit=10,
        offset=10 * (page - 1),
    )
    return {
        "rows": [(task.description, task.status) for task in found.tasks],
        "pages": -(-found.total // 10),
    }


async def test_pages() -> None:
    """All pages together have all tasks, the newest first."""
    async with setup_async_framework(None):
        manager = get_task_manager()
        for year in range(2000, 2030):
            await manager.submit(make_report, (year,), wait=True)
        names = await names_of(manager, TaskStatus.COMPLETED)
        assert names == ["make_report"] * 30


def test_a_table() -> None:
    """A table shows ten rows at a time, and finds some by a part of their description."""
    with TestClient(app) as client:
        manager = app.state.task_manager
        for year in range(1999, 2024):
            described = make_report.options(description=f"Report {year}")
            task_id = manager.submit_nowait(described, (year,))
            with suppress(LookupError):
                manager.wait_result(task_id, timeout=60)
        last = client.get("/admin/reports", params={"page": 3}).json()
        found = client.get("/admin/reports", params={"search": "report 201"}).json()
    assert last["pages"] == 3
    assert last["rows"][-1] == ["Report 1999", "failed"]
    assert len(last["rows"]) == 5
    assert [row[0] for row in found["rows"]] == [f"Report {year}" for year in range(2019, 2009, -1)]
    assert found["pages"] == 1
