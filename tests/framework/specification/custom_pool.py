"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: E402

# --- the snippet, word for word ---
from framework import ThreadPoolExecutorEnhanced

# 创建自定义线程池
custom_pool = ThreadPoolExecutorEnhanced(
    max_workers=20,
    thread_name_prefix="custom-pool-",
    task_timeout=60.0
)

# 在应用中使用自定义线程池
# ...
# --- the end of the snippet ---

import threading
from contextlib import asynccontextmanager

from fastapi import FastAPI

from framework import get_task_manager, get_thread_pool, setup_async_framework


@asynccontextmanager
async def lifespan(app: FastAPI):
    """Use the custom pool."""
    async with setup_async_framework(app, executor=custom_pool):
        yield
    custom_pool.shutdown()


app = FastAPI(lifespan=lifespan)


@app.get("/probe")
async def probe():
    """Tell where tasks run."""
    name = await get_task_manager().submit(lambda: threading.current_thread().name, wait=True)
    return {"thread": name, "max_workers": get_thread_pool().get_stats()["max_workers"]}
