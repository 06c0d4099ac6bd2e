"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: D103, E402, I001

from fastapi import FastAPI

# --- the snippet, word for word ---
from contextlib import asynccontextmanager
from framework import setup_async_framework

@asynccontextmanager
async def lifespan(app: FastAPI):
    async with setup_async_framework(app, max_workers=10):
        yield

app = FastAPI(
    # ... 其他配置
    lifespan=lifespan
)
# --- the end of the snippet ---

from framework import get_thread_pool


@app.get("/probe")
async def probe():
    """Tell how many threads there may be."""
    return get_thread_pool().get_stats()["max_workers"]
