"""What `framework.testing` says about threads."""

from __future__ import annotations

import threading

from framework import ThreadPoolExecutorEnhanced
from framework.testing import is_pool_thread


def test_which_threads_are_of_a_pool() -> None:
    """`is_pool_thread` is true of a pool's threads and of no others."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        assert is_pool_thread(pool.submit(threading.current_thread).result())

    assert not is_pool_thread(threading.current_thread())
