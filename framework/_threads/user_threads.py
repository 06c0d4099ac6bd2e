"""Threads that call user code, which may be slow, for threads that must not wait."""

from __future__ import annotations

import threading
from collections.abc import Callable

HOOK = "asyncframe-hook"
CALLBACKS = "asyncframe-callbacks"
LIFESPAN = "asyncframe-lifespan"
DEPENDENCY = "asyncframe-dependency"
NAMES = frozenset({HOOK, CALLBACKS, LIFESPAN, DEPENDENCY})


def call_on_thread(name: str, fn: Callable[..., object], *args: object) -> None:
    """Call ``fn(*args)`` on a new thread, or here if no thread can be started.

    Args:
        name: Name of the thread, one of the above.
        fn: The function, which must not raise.
        args: Its arguments.
    """
    thread = threading.Thread(target=fn, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # too many threads; the caller is late then, but the call is made
        fn(*args)
