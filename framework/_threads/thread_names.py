"""Names of the threads that call user code, which may be slow."""

from __future__ import annotations

HOOK = "asyncframe-hook"
CALLBACKS = "asyncframe-callbacks"
LIFESPAN = "asyncframe-lifespan"
