"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: D103, E402, I001

from fastapi import FastAPI

from framework import setup_async_framework

app = FastAPI(lifespan=setup_async_framework)

# --- the snippet, word for word ---
from framework import retry_task

@retry_task(max_retries=3, retry_delay=1.0)
async def unreliable_operation() -> dict:
    # 可能失败的操作
    return {"status": "success"}
# --- the end of the snippet ---

@app.get("/probe")
async def probe():
    """Make a call."""
    return await unreliable_operation()
