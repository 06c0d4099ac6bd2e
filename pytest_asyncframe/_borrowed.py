"""What virtual time needs of Python that is not public.

Without one of these, a test that uses it could only fail somewhere inside: so it fails at its
start, with a sentence. Names that are read with a default are not listed; without them a message
says less.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import multiprocessing.process
import queue
import sys
import threading
from collections.abc import Iterator

import pytest

_LOCK = ("_is_owned", "_release_save", "_acquire_restore")


def _needed() -> Iterator[tuple[str, object, tuple[str, ...]]]:
    """Yield what virtual time needs: how messages call an object, it, and its private names."""
    yield "asyncio.futures", asyncio.futures, ("_set_result_unless_cancelled",)
    yield "asyncio.Lock", asyncio.Lock(), ("_get_loop",)
    loop = asyncio.SelectorEventLoop()
    try:
        yield (
            "asyncio.SelectorEventLoop",
            loop,
            (
                *("_ready", "_scheduled", "_default_executor", "_run_once", "_ssock"),
                *("_check_closed", "_check_running", "_read_from_self", "_write_to_self"),
            ),
        )
        handle = loop.call_soon(int)
        handle.cancel()
        names = ("_callback", "_args", "_cancelled", "_source_traceback")
        yield "asyncio.Handle", handle, names
    finally:
        loop.close()
    yield "concurrent.futures", concurrent.futures, ("_base",)
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    yield "concurrent.futures.Future", future, ("_condition", "_invoke_callbacks")
    pool = concurrent.futures.ThreadPoolExecutor(1)
    yield "concurrent.futures.ThreadPoolExecutor", pool, ("_max_workers",)
    yield "threading", threading, ("_time", "_active", "_DummyThread")
    yield "threading.Thread", threading.current_thread(), ("_invoke_excepthook",)
    yield "threading.Condition", threading.Condition(), ("_waiters", *_LOCK)
    yield "threading.RLock", threading.RLock(), (*_LOCK, "_at_fork_reinit")
    yield "queue", queue, ("time",)
    yield "queue.Queue", queue.Queue(), ("_qsize",)
    yield "logging", logging, ("_handlerList",)
    yield "multiprocessing.process", multiprocessing.process, ("_children",)


@functools.cache
def require_known() -> None:
    """Check that this Python has all that virtual time needs.

    Raises:
        pytest.UsageError: If not, with the names of the first thing that is missing.
    """
    for what, owner, names in _needed():
        missing = [name for name in names if not hasattr(owner, name)]
        if missing:
            raise pytest.UsageError(
                f"virtual time needs {missing[0]} of {what}, which Python "
                f"{sys.version_info.major}.{sys.version_info.minor} does not have: use a newer "
                "asyncframe, or an older Python"
            )
