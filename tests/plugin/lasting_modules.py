"""Installed modules outlive the runs of pytest inside this one, and are never imported twice.

`pytester` drops every module that a run inside this one has imported. What imports it later
gets a second copy, while other libraries hold the first: an error of one is not caught as an
error of the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import _pytest.pytester
import pytest

_PACKAGES = Path(__file__).resolve().parents[2]
"""The folder that holds the packages and `tests`."""

_PLACES = tuple(f"{path}/" for path in (_PACKAGES, *{sys.prefix, sys.base_prefix}))


def is_installed(module: ModuleType | None) -> bool:
    """Whether a module is part of Python, of an installed library or of this project."""
    file: str | None = getattr(module, "__file__", None)
    if file is None:  # it is built in, or a namespace, or made by a test
        name = "" if module is None else module.__name__.partition(".")[0]
        return name in sys.stdlib_module_names
    return file.startswith(_PLACES)


class LastingModules(_pytest.pytester.SysModulesSnapshot):
    """Drops what has been imported since it was made, except for what is installed."""

    def __init__(self, preserve: Callable[[str], bool] | None = None) -> None:
        before = dict(sys.modules)

        def stays(name: str) -> bool:
            if preserve is not None and preserve(name):
                return True
            return name not in before and is_installed(sys.modules[name])

        super().__init__(stays)


def not_lasting(before: Mapping[str, ModuleType], now: Mapping[str, ModuleType]) -> list[str]:
    """Return which installed modules are not what they were, in order of their names."""
    return sorted(
        name
        for name, module in before.items()
        if now.get(name) is not module and is_installed(module)
    )


@pytest.fixture(autouse=True)
def installed_modules_last() -> Iterator[None]:
    """Keep what runs inside a test import, and fail if a module was replaced or dropped."""
    before = dict(sys.modules)
    # Not the fixture monkeypatch, which is to put its modules back before the look at them.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pytest.pytester, "SysModulesSnapshot", LastingModules)
        yield
    assert not_lasting(before, sys.modules) == [], "replaced in sys.modules, or dropped"
