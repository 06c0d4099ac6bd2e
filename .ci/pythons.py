"""Print the Pythons of this machine, one path a line, oldest version first.

    python3 .ci/pythons.py 3.11 3.12 3.13

Looks at what is on the path, in the system's folders, and in those of pyenv and uv. Of
several with the same version (3.13.5, say) one is printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PLACES = (
    (Path("/"), "usr/bin"),
    (Path("/"), "usr/local/bin"),
    (Path("/"), "opt/*/bin"),
    (Path.home(), ".pyenv/versions/*/bin"),
    (Path.home(), ".local/share/uv/python/*/bin"),
)


def version_of(python: Path) -> tuple[int, ...] | None:
    """Return the version of a Python, or None if it does not run or is not CPython."""
    code = "import sys; print(sys.implementation.name, *sys.version_info[:3])"
    try:
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    name, *numbers = done.stdout.split()
    return tuple(map(int, numbers)) if name == "cpython" else None


def find(minors: list[str]) -> dict[tuple[int, ...], Path]:
    """Return a Python for each version found, oldest first.

    Args:
        minors: Versions to look for, such as ``"3.11"``.
    """
    folders = [folder for root, pattern in PLACES for folder in sorted(root.glob(pattern))]
    folders += [Path(entry) for entry in os.get_exec_path()]
    found: dict[tuple[int, ...], Path] = {}
    for folder in folders:
        for minor in minors:
            python = folder / f"python{minor}"
            # A virtual environment's Python is one of the others.
            if python.is_file() and not (folder.parent / "pyvenv.cfg").exists():
                version = version_of(python)
                if version is not None and version[:2] == tuple(map(int, minor.split("."))):
                    found.setdefault(version, python)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    for path in find(sys.argv[1:]).values():
        print(path)
