"""A module that has no app until its function is called."""

from __future__ import annotations

from fastapi import FastAPI


def make_app() -> FastAPI:
    """Return an app."""
    return FastAPI()
