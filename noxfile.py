"""The Makefile's targets as sessions of nox, on each Python of this machine.

`nox` makes the checks and runs the whole suite on every Python, `nox -s tests-3.12` on one, and
`nox -s mutants` counts the faults that the suite finds. What stands behind ``--`` is the target's
ARGS.
"""

from __future__ import annotations

import shlex
import subprocess
import sys

import nox

CHECKS = ["changelog", "lint", "types", "imports", "docs", "wheel", "fastapi", "coverage"]
VERSIONS = ["3.11", "3.12", "3.13", "3.14"]

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "none"  # make sets the environments up
nox.options.sessions = [*CHECKS, "tests"]


def add(name: str, target: str, version: str | None = None) -> None:
    """Add a session that makes a target, with one version of Python or the Makefile's own."""

    @nox.session(name=name)
    def make(session: nox.Session) -> None:
        variables = [f"ARGS={shlex.join(session.posargs).replace('$', '$$')}"]
        if version is not None:
            script = [sys.executable, ".ci/pythons.py", version]
            found = subprocess.run(script, capture_output=True, text=True, check=True).stdout
            if not found:
                session.skip(f"this machine has no Python {version}")
            variables += [f"PYTHON={found.split()[-1]}", f"VENV=.nox/{version}"]
        session.run("make", target, *variables)


for check in [*CHECKS, "soak", "mutants"]:
    add(check, check)
for version in VERSIONS:
    add(f"tests-{version}", "test-all", version)
    add(f"bench-{version}", "bench", version)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the suite on each Python found."""
    for version in VERSIONS:
        session.notify(f"tests-{version}", session.posargs)
