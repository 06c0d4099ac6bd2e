"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: D103

from fastapi import FastAPI

from framework import get_task_manager, setup_async_framework

app = FastAPI(lifespan=setup_async_framework)

# --- the snippet, word for word ---
@app.get("/tasks")
def list_all_tasks():
    task_manager = get_task_manager()
    return task_manager.get_all_tasks()
# --- the end of the snippet ---

@app.post("/start")
async def start():
    """Run a task."""
    task_id = await get_task_manager().submit(int)
    await get_task_manager().get_result(task_id)
    return task_id
