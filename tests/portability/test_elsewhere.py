"""The packages on systems that lack what Linux has; `elsewhere` says what is taken away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import children
from tests.patience import PATIENCE

HERE = Path(__file__).parent
SYSTEMS = pytest.mark.parametrize("system", ["macos", "windows"])
PARTS = ("framework/threads", "framework/stores", "steps")
"""Tests that run there, too: a part that waits in all kinds of ways, and takes 15 s."""


def elsewhere(system: str) -> dict[str, str]:
    """Return the environment of a Python that is on another system."""
    before = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(filter(None, [str(HERE / "elsewhere"), str(HERE), before]))
    return {"ASYNCFRAME_AS": system, "PYTHONPATH": f"{path}{os.pathsep}{children.ROOT}"}


@pytest.mark.extended("processes")
@SYSTEMS
def test_an_app_elsewhere(system: str, tmp_path: Path) -> None:
    """Tasks run, time out, are cancelled and given to a worker, without what Linux alone has."""
    there = elsewhere(system)
    children.python(HERE / "program.py", cwd=tmp_path, env=there)
    # Now without workers of its own.
    children.python(HERE / "program.py", cwd=tmp_path, env={**there, "WORKERS": "0"})


@pytest.mark.extended("processes")
@SYSTEMS
def test_the_suite_is_collected_elsewhere(system: str) -> None:
    """All tests can be imported there, also those that are skipped when they run."""
    # The plugin for benchmarks warns of its own in a process of xdist's, where this may run.
    quiet = ("-q", "-n0", "-p", "no:cacheprovider", "--benchmark-disable")
    options = (*quiet, "-m", "", "--collect-only")
    there = {**elsewhere(system), "ASYNCFRAME_ALSO": "tests benchmarks"}
    children.python("-m", "pytest", *options, cwd=children.ROOT, env=there, patience=4 * PATIENCE)


@pytest.mark.extended("processes")
@SYSTEMS
def test_a_part_of_the_suite_elsewhere(system: str) -> None:
    """The tests of tasks, threads and steps pass without what Linux alone has."""
    parts = [children.ROOT / "tests" / part for part in PARTS]
    options = ("-q", "-n0", "-p", "no:cacheprovider", "-m", "not extended and not soak")
    there = elsewhere(system)
    children.python(
        "-m", "pytest", *options, *parts, cwd=children.ROOT, env=there, patience=4 * PATIENCE
    )
