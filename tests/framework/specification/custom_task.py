"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: D103, E402, I001, W293

from fastapi import FastAPI

from framework import setup_async_framework

app = FastAPI(lifespan=setup_async_framework)


def my_custom_function(first: int, second: int, option: str | None = None) -> dict:
    """Do what a user's own function does."""
    return {"sum": first + second, "option": option}

# --- the snippet, word for word ---
from framework import get_task_manager

@app.post("/custom-task")
async def create_custom_task(params: dict):
    task_manager = get_task_manager()
    
    # 提交自定义任务
    task_id = await task_manager.submit(
        func=my_custom_function,
        args=(params["arg1"], params["arg2"]),
        kwargs={"option": params.get("option")},
        timeout=30,
        description="Custom task",
        wait=False  # 不等待结果
    )
    
    return {"task_id": task_id}
# --- the end of the snippet ---

@app.get("/probe")
async def probe(task_id: str):
    """Wait for the result, and tell what the task is."""
    manager = get_task_manager()
    result = await manager.get_result(task_id)
    task = await manager.get_task(task_id)
    return {"result": result, "description": task.description}
