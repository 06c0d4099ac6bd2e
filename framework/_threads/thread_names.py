"""Names of threads on which something is called that may take its time."""

from __future__ import annotations

HOOK = "asyncframe-hook"
CALLBACKS = "asyncframe-callbacks"
LIFESPAN = "asyncframe-lifespan"
