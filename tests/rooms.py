"""The tests of a room of the code and of the rooms above it: ``python -m tests.rooms http``.

A room is a package or module in `framework`, or one of the plugin's two halves. What stands above
what is read from pyproject.toml, where import-linter has its layers.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TESTS = {
    "explore": ("tests/explore",),
    "plugin": ("tests/plugin", "docs/examples/plugin"),
    "__main__": ("tests/framework/test_specification.py",),
    "example": ("tests/framework/test_demo.py",),
    "cli": ("tests/processes/operating/test_cli.py",),
    "http": ("tests/framework/http", "tests/framework/test_http.py", "tests/docs"),
    "telemetry": ("tests/framework/telemetry",),
    "doctor": ("tests/processes/operating/test_doctor.py",),
    "worker": ("tests/processes",),
    "lifespan": ("tests/framework/manager", "tests/framework/test_bad_input.py"),
    "testing": ("tests/framework/test_testing.py", "tests/framework/test_override_when_used.py"),
    "_app": ("tests/framework/manager", "tests/framework/decorators"),
    "_decorators": ("tests/framework/decorators", "tests/framework/faults"),
    "_manager": ("tests/framework/manager", "tests/framework/faults"),
    "_replays": ("tests/steps/test_replays.py", "tests/processes/operating/test_replay.py"),
    "steps": ("tests/steps",),
    "_running": ("tests/framework/running", "tests/framework/faults"),
    "engines": ("tests/framework/test_engine_seam.py", "tests/processes"),
    "stores": ("tests/framework/stores", "tests/processes"),
    "_threads": ("tests/framework/threads",),
    "protocols": ("tests/framework/test_seams.py",),
    "_tasks": ("tests/framework/tasks",),
    "_records": ("tests/framework/tasks",),
    "exceptions": ("tests/framework/test_public_surface.py",),
}
"""Where the tests of each room are."""

USED_BY_THE_PLUGIN = "testing"
"""The highest room that the plugin uses."""


def layers() -> list[set[str]]:
    """Return the rooms, those of one layer together, the highest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (order,) = (each["layers"] for each in contracts if each.get("containers") == ["framework"])
    found = [set(layer.split(" | ")) for layer in order]
    place = next(number for number, layer in enumerate(found) if USED_BY_THE_PLUGIN in layer)
    return [*found[:place], {"explore"}, {"plugin"}, *found[place:]]


def tests_of(room: str) -> list[str]:
    """Return the folders and files with the tests of a room and of those above it.

    Raises:
        KeyError: If there is no such room.
    """
    above: list[str] = []
    for layer in layers():
        if room in layer:
            found = [*TESTS[room], *(test for name in above for test in TESTS[name])]
            return list(dict.fromkeys(found))
        above += sorted(layer)
    raise KeyError(room)


def main(arguments: Sequence[str]) -> int:
    """Print the tests of the room that is named, nothing without a name; 2 if there is no such."""
    if not arguments:
        return 0
    try:
        print(*tests_of(*arguments))
    except (KeyError, TypeError):
        print(f"ROOM={' '.join(arguments)}: the rooms are {', '.join(TESTS)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
