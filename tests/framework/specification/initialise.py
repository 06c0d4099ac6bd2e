"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: E402, I001

# --- the snippet, word for word ---
from fastapi import FastAPI
from framework import setup_async_framework

app = FastAPI(
    # ... 其他配置
    lifespan=setup_async_framework  # 使用框架的生命周期管理器
)
# --- the end of the snippet ---

from framework import get_task_manager


@app.get("/probe")
async def probe():
    """Run a task."""
    return await get_task_manager().submit(int, wait=True)
