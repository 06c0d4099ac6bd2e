"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: D103, E402, I001

from fastapi import FastAPI

from framework import setup_async_framework

app = FastAPI(lifespan=setup_async_framework)

# --- the snippet, word for word ---
from framework import throttled_task

@throttled_task(rate_limit=5, time_window=60)  # 每60秒最多5次调用
async def limited_api_call() -> dict:
    # API调用
    return {"status": "success"}
# --- the end of the snippet ---

@app.get("/probe")
async def probe():
    """Make a call."""
    return await limited_api_call()
