"""The list of running workers and apps: each process keeps an entry in Redis.

``python -m framework doctor`` reads it. An entry that is no longer renewed belongs to a
process that has died.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final, Literal

from framework._threads.clock import SystemClock
from framework._threads.courier import Courier
from framework._threads.loggers import SafeLogger
from framework._threads.watch.processes import holder_here
from framework.engines.celery._redis.state import State

_LOGGER = SafeLogger("asyncframe")

EVERY: Final = 10.0
"""Seconds between two renewals of an entry."""


_KEPT: Final = 86_400.0
"""Seconds after which the entry of a process that was killed is dropped."""


class Entry:
    """One process's entry, renewed by a thread of its own.

    Args:
        state: Redis.
        kind: The list that it belongs to.
        signatures: Returns the hash of each function's signature by its name.
        facts: Further facts about the process, for JSON.
    """

    def __init__(
        self,
        state: State,
        kind: Literal["workers", "apps"],
        signatures: Callable[[], Mapping[str, str]],
        facts: Mapping[str, Any],
    ) -> None:
        self._state = state
        self._key = state.processes(kind)
        self._signatures = signatures
        self._facts = {"hostname": socket.gethostname(), **facts}
        self._clock = SystemClock()
        self._field = holder_here()
        self._dropped = False
        self._courier = Courier(
            "asyncframe-entry", self._turn, pauses=(EVERY,), failed=self._failed
        )

    def start(self) -> None:
        """Start renewing the entry."""
        self._courier.wake()

    def tell(self) -> None:
        """Write the entry once, if Redis answers; blocks for two round trips."""
        try:
            self._tell()
        except Exception as error:  # Redis is unavailable, which the process logs elsewhere
            self._failed(error)

    def close(self) -> None:
        """Remove the entry; blocks for a round trip."""
        self._courier.stop()
        try:
            self._state.client.hdel(self._key, self._field)
        except Exception as error:  # then it is removed by its age
            _LOGGER.debug("this process stays listed: %r", error)

    def _turn(self) -> float:
        self._tell()
        if not self._dropped:
            self._drop_old()
            self._dropped = True
        return EVERY

    def _failed(self, error: Exception) -> None:
        _LOGGER.debug("this process is not listed: %r", error)

    def _drop_old(self) -> None:
        """Drop the entries of processes that were killed long ago."""
        now = self._state.now()
        told = self._state.client.hgetall(self._key).items()
        old = [field for field, text in told if now - json.loads(text)["told"] > _KEPT]
        if old:
            self._state.client.hdel(self._key, *old)

    def _tell(self) -> None:
        before = self._clock.time()
        told, after = self._state.now(), self._clock.time()
        entry = {
            **self._facts,
            "pid": os.getpid(),
            "version": version("asyncframe"),
            "told": told,
            "skew": (before + after) / 2 - told,
            "signatures": dict(self._signatures()),
        }
        self._state.client.hset(self._key, self._field, json.dumps(entry))
        if self._courier.is_stopped:
            # It was removed a moment ago.
            self._state.client.hdel(self._key, self._field)


def entries(state: State, kind: Literal["workers", "apps"], fresh: float) -> list[dict[str, Any]]:
    """Return the entries of a kind that were renewed in the last *fresh* seconds; blocks."""
    return list(_recent(state, state.processes(kind), fresh))


def all_entries(state: State, fresh: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the recent entries of all namespaces of this Redis; blocks.

    Scans all keys, which takes a while if there are millions.
    """
    for kind in ("workers", "apps"):
        for key in state.client.scan_iter(f"asyncframe:*:{kind}", count=1_000, _type="hash"):
            namespace = key.removeprefix("asyncframe:").removesuffix(f":{kind}")
            for entry in _recent(state, key, fresh):
                yield namespace, entry


def _recent(state: State, key: str, fresh: float) -> Iterator[dict[str, Any]]:
    now = state.now()
    told = [json.loads(text) for text in state.client.hvals(key)]
    yield from (one for one in told if now - one["told"] <= fresh)
