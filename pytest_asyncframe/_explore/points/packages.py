"""The installed packages whose files have points like the user's own: ``asyncframe_explore``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_asyncframe._explore.locks.making import is_machinery


def explored_packages(config: pytest.Config) -> tuple[Path, ...]:
    """Return the folders and files of the packages that the ini file names.

    Raises:
        pytest.UsageError: If one cannot be imported, or cannot be explored.
    """
    names = config.getini("asyncframe_explore")
    try:
        return tuple(place for name in names for place in _places(name))
    except _WrongError as error:
        given = f"asyncframe_explore = {' '.join(names)!r} in the ini file"
        raise pytest.UsageError(f"{given}: {error}") from None


class _WrongError(Exception):
    """Raised for a package that cannot be explored, with the end of a message for users."""


def _places(name: str) -> Sequence[Path]:
    first = name.partition(".")[0]
    if first in sys.stdlib_module_names or is_machinery(first):
        raise _WrongError(
            f"{name!r} cannot be explored, since Python or asyncframe itself stands on it: name "
            "packages of your own, or those that your app shares among threads"
        )
    spec = _spec(name)
    if spec is None:
        raise _WrongError(
            f"there is no package {name!r} that can be imported: write the name that follows "
            "'import', and install the package where pytest runs"
        )
    if spec.submodule_search_locations is not None:
        return [Path(place).resolve() for place in spec.submodule_search_locations]
    if not (spec.origin or "").endswith(".py"):
        raise _WrongError(f"{name!r} has no Python code, which alone can be explored")
    return [Path(spec.origin or "").resolve()]


def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ImportError, ValueError):  # of a parent; or no name at all, such as "a..b"
        return None
