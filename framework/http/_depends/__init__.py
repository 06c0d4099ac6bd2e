"""Values for the dependencies of a task's function, as FastAPI gets them for an endpoint."""

from __future__ import annotations
