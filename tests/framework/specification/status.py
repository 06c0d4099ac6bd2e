"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: D103, E402, I001, RUF003, W293

from fastapi import FastAPI, HTTPException

from framework import setup_async_framework

app = FastAPI(lifespan=setup_async_framework)

# --- the snippet, word for word ---
from framework import get_task_manager, TaskStatus

@app.get("/tasks/{task_id}")
async def get_task_status(task_id: str):
    task_manager = get_task_manager()
    task = await task_manager.get_task(task_id)
    
    if task is None:
        raise HTTPException(status_code=404, detail="Task not found")
        
    # 获取任务信息
    task_info = task.to_dict()
    
    # 如果任务已完成，也获取结果
    if task.status == TaskStatus.COMPLETED:
        result = await task_manager.get_result(task_id)
        task_info["result"] = result
        
    return task_info
# --- the end of the snippet ---

import threading

release = threading.Event()


def work():
    """Wait until told to end."""
    release.wait()
    return "done"


@app.post("/start")
async def start():
    """Start a task."""
    return await get_task_manager().submit(work)


@app.post("/finish/{task_id}")
async def finish(task_id: str):
    """Let it end."""
    release.set()
    return await get_task_manager().get_result(task_id)
