"""A snippet of the specification, and around it what it leaves open."""
# fmt: off
# mypy: ignore-errors
# ruff: noqa: B904, D103, E402, I001, RET504, TRY300

from fastapi import FastAPI, HTTPException

from framework import setup_async_framework

app = FastAPI(lifespan=setup_async_framework)

# --- the snippet, word for word ---
from framework import async_task

@async_task(timeout=10)
async def fetch_data(user_id: str) -> dict:
    # 异步获取数据
    return {"user_id": user_id, "data": "..."}

@app.get("/data/{user_id}")
async def get_user_data(user_id: str):
    try:
        result = await fetch_data(user_id)
        return result
    except Exception as e:
        raise HTTPException(status_code=500, detail=str(e))
# --- the end of the snippet ---
