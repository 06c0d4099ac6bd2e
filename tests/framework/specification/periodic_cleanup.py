"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: D103, I001, RUF006, T201, TID251

# --- the snippet, word for word ---
import asyncio
from fastapi import FastAPI
from framework import get_task_manager, setup_async_framework

app = FastAPI(lifespan=setup_async_framework)

@app.on_event("startup")
async def start_cleanup_task():
    asyncio.create_task(periodic_cleanup())

async def periodic_cleanup():
    task_manager = get_task_manager()
    while True:
        await asyncio.sleep(3600)  # 每小时运行一次
        removed = task_manager.cleanup_completed_tasks(max_age=86400)  # 清理一天前的任务
        print(f"Removed {removed} completed tasks")
# --- the end of the snippet ---

@app.get("/probe")
async def probe():
    """Tell which coroutines the loop runs."""
    return [one.get_coro().__qualname__ for one in asyncio.all_tasks()]
