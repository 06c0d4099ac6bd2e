"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: D103, E402, I001

from fastapi import FastAPI

from framework import setup_async_framework

app = FastAPI(lifespan=setup_async_framework)

# --- the snippet, word for word ---
from framework import background_task

@background_task(timeout=30, description="数据处理任务")
def process_large_data(data_id: str) -> dict:
    # 长时间运行的处理逻辑
    return {"status": "completed", "data_id": data_id}

@app.post("/process")
async def start_processing(data_id: str):
    task_id = process_large_data(data_id)
    return {"task_id": task_id, "status": "processing"}
# --- the end of the snippet ---

from framework import get_task_manager


@app.get("/probe")
async def probe(task_id: str):
    """Wait for the result, and tell what the task is."""
    manager = get_task_manager()
    result = await manager.get_result(task_id)
    task = await manager.get_task(task_id)
    return {"result": result, "description": task.description}
