"""Locks that exist before an explored test: found once, and modelled during its runs.

Looked through are the modules under the root directory and those of explored packages: their
globals, classes and functions, and what can be reached from there through containers and through
instances of their classes, of `threading` and `queue`, and of other packages two steps deep. What
makes locks is exchanged too: a name that was imported from `threading`, or a default factory.

Not found are locks in tuples, sets and C code, and those behind the first thousand items of a
container. Such a lock blocks its thread if a paused actor holds it, which the sequencer sees.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_asyncframe._explore.locks.making import is_machinery, stand_ins
from pytest_asyncframe._explore.locks.model import REAL_RLOCK, Modelled, ModelRLock, current
from pytest_asyncframe._explore.locks.origins import OF_A_HANDLER
from pytest_asyncframe._explore.locks.served import ServedQueues
from pytest_asyncframe._explore.locks.walk import FACTORIES, NAME, Exchange, Walk
from pytest_asyncframe._locations import is_users_file

_NAMES = ("Lock", "RLock", "allocate_lock", "SimpleQueue")
"""Names that other packages import from `threading`, `_thread` and `queue`."""


class FoundLocks:
    """The locks that exist before the runs of a test.

    Args:
        root: The root directory.
        more: Returns objects that no module refers to, such as wide fixtures, by name.
        packages: Folders and files of further modules.
    """

    def __init__(
        self,
        root: Path,
        more: Callable[[], Mapping[str, object]] = dict,
        packages: Iterable[Path] = (),
    ) -> None:
        self._root = str(root) + os.sep
        self._packages = tuple(map(str, packages))
        self._more = more
        self._known: dict[str, ModuleType] = {}
        self._exchanges: list[Exchange] = []
        self._models: dict[int, Modelled] = {}
        self._queues = ServedQueues()

    @contextmanager
    def modelled(self) -> Iterator[None]:
        """Let the locks that were found, and those that are made, be models inside the block.

        The block is a run. After it, the locks are as they were.
        """
        self._look()
        self._exchanges += self._queues.exchanges()
        control = current.control
        with stand_ins():
            try:
                for exchange in self._exchanges:
                    exchange.begin()
                yield
            finally:
                current.control = control
                for exchange in self._exchanges:
                    exchange.end()

    def free_from_dead(self) -> None:
        """Let those be free that a dead process has: the next one has locks of its own."""
        for one in self._models.values():
            one.free_from_dead()

    def _look(self) -> None:
        """Look through the modules that were not there last time."""
        known = self._known
        new = [(name, one) for name, one in list(sys.modules.items()) if known.get(name) is not one]
        if not new:
            return
        is_first = not known
        known.update(new)
        walk = Walk({name for name, one in known.items() if self._is_own(one)}, self._models)
        for _, module in new:
            if self._is_own(module):
                walk.through_module(module)
        for name, value in self._more().items() if is_first else ():
            walk.through(name, value)
        if is_first:
            self._exchanges += _of_handlers()
        self._exchanges += walk.exchanges
        self._exchanges += _names_in(one for name, one in new if not is_machinery(name))

    def _is_own(self, module: ModuleType) -> bool:
        file = getattr(module, "__dict__", {}).get("__file__")
        if not isinstance(file, str):
            return False
        return self._is_of_package(file) or (file.startswith(self._root) and is_users_file(file))

    def _is_of_package(self, file: str) -> bool:
        return any(file == one or file.startswith(one + os.sep) for one in self._packages)


def _names_in(modules: Iterable[ModuleType]) -> Iterator[Exchange]:
    """Yield where modules keep names that were imported from `threading`."""
    for module in modules:
        names = getattr(module, "__dict__", {})
        for name in _NAMES:
            found = FACTORIES.get(id(names.get(name)))
            if found is not None and module is not threading:
                yield Exchange(NAME, names, name, names[name], found)


def _of_handlers() -> Iterator[Exchange]:
    """Yield where logging handlers keep their locks."""
    handlers: list[Any] = logging._handlerList  # type: ignore[attr-defined]  # nothing public
    for reference in list(handlers):
        names = getattr(reference(), "__dict__", {})
        real = names.get("lock")
        if type(real) is REAL_RLOCK:
            yield Exchange(NAME, names, "lock", real, ModelRLock(real, OF_A_HANDLER))


def kept_by(item: pytest.Item) -> dict[str, object]:
    """Return what pytest keeps for a test: its parameters, and fixtures of wider scopes."""
    call: Any = getattr(item, "callspec", None)
    fixtures: Any = getattr(item, "_fixtureinfo", None)
    kept: dict[str, object] = {} if call is None else dict(call.params)
    for name, found in {} if fixtures is None else fixtures.name2fixturedefs.items():
        if found and found[-1].scope != "function" and found[-1].cached_result is not None:
            kept[name] = found[-1].cached_result[0]
    return kept
