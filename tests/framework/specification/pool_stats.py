"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: D103, E402, I001

from fastapi import FastAPI

from framework import setup_async_framework

app = FastAPI(lifespan=setup_async_framework)

# --- the snippet, word for word ---
from framework import get_thread_pool

@app.get("/pool-stats")
def get_thread_pool_stats():
    pool = get_thread_pool()
    return pool.get_stats()
# --- the end of the snippet ---
