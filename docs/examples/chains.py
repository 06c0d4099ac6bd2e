"""A report that is made once both of its imports have ended, and a folder that is removed then."""

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import TaskId, background_task, get_task_manager, setup_async_framework

app = FastAPI(lifespan=setup_async_framework)
done: list[str] = []


@background_task(on_error="silent")
def load(table: str) -> None:
    """Load a table."""
    if table == "broken":
        raise ValueError(table)
    done.append(table)


@background_task
def report(name: str) -> str:
    """Make a report of what was loaded."""
    done.append("report")
    return f"{name}: {len(done) - 1} tables"


@background_task
async def clean_up(name: str) -> None:
    """Remove what the others have left."""
    done.append(f"clean-up of {name}")


@app.post("/reports/{name}", status_code=202)
async def start(name: str, tables: list[str]) -> dict[str, TaskId[object]]:
    """Load tables side by side, then make the report, and clean up whatever has happened."""
    manager = get_task_manager()
    loads = [await manager.submit(load, (table,)) for table in tables]
    made = await manager.submit(report, (name,), after=loads)
    ended = await manager.submit(clean_up, (name,), after=made, after_failure="run")
    return {"report": made, "clean_up": ended}


def test_the_report_comes_last() -> None:
    """It is made once all tables are there. If one is broken there is none, but a clean-up."""
    with TestClient(app) as client:
        manager = app.state.task_manager
        ids = client.post("/reports/may", json=["orders", "users"]).json()
        assert manager.wait_result(ids["report"], timeout=60) == "may: 2 tables"
        manager.wait_result(ids["clean_up"], timeout=60)
        assert sorted(done[:2]) == ["orders", "users"]
        assert done[2:] == ["report", "clean-up of may"]

        ids = client.post("/reports/june", json=["broken"]).json()
        manager.wait_result(ids["clean_up"], timeout=60)
        task = manager.get_all_tasks()[ids["report"]]
        assert task["status"] == "cancelled"
        assert task["reason"] == f"it was to run after task {task['after'][0]}, which failed"
        assert done[4:] == ["clean-up of june"]
