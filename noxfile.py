"""The checks of this project: `nox` runs all but bench and soak, `nox -s tests-3.12` one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
EXTRAS = "[sql,celery]"  # what the tests are of, beside the package alone
VERSIONS = ["3.11", "3.12", "3.13", "3.14"]

nox.needs_version = ">=2026.10"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "imports", "coverage", "tests", "wheel", "docs"]


def offer_pythons() -> None:
    """Put the Pythons of this machine on the path, where nox looks for them."""
    script = [sys.executable, str(ROOT / ".ci" / "pythons.py"), *VERSIONS]
    found = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()
    folders = [str(Path(python).parent) for python in reversed(found)]
    os.environ["PATH"] = os.pathsep.join([*folders, os.environ["PATH"]])


offer_pythons()


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install the project, editable, with extras and with groups of its dependencies."""
    options = [word for group in groups for word in ("--group", group)]
    session.install("--editable", f".{extras}", *options)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and the fragments of the changelog."""
    session.install("--group", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, and that the public ones are complete."""
    install(session, "types", extras=EXTRAS)
    session.run("mypy")
    for package in ("framework", "pytest_asyncframe"):
        session.run("basedpyright", "--verifytypes", package, "--ignoreexternal")
    session.run("basedpyright", "tests/typing")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that imports point down."""
    install(session, "imports")
    session.run("lint-imports", "--no-logo")


@nox.session(python=VERSIONS)
def tests(session: nox.Session) -> None:
    """Run the suite on each Python found."""
    install(session, "test", extras=EXTRAS)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the suite under coverage, which must reach the limit in pyproject.toml."""
    install(session, "test", extras=EXTRAS)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it, and run the suite outside the tree."""
    session.install("--group", "wheel", "--group", "test")
    dist = Path(session.create_tmp()) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    (built,) = dist.glob("*.whl")
    session.run("check-wheel-contents", str(built))
    session.install(f"{built}{EXTRAS}")
    # Once more, since pip keeps an older build of the same version.
    session.install("--force-reinstall", "--no-deps", str(built))
    outside = dist.parent / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    shutil.copytree(ROOT / "tests", outside / "tests")
    for name in ("pyproject.toml", "README.md", "README.zh.md", "docs"):
        copy(ROOT / name, outside / name)
    with session.chdir(outside):
        session.run("python", "-P", "-m", "pytest", *session.posargs)


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder if it is there."""
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copy(source, target)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "docs", extras="[pytest,sql,celery]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def soak(session: nox.Session) -> None:
    """Run the tests that take minutes, one after the other."""
    install(session, "test", extras=EXTRAS)
    session.run("python", "-m", "pytest", "-m", "soak", "--timeout=3600", *session.posargs)


@nox.session(python=["3.11", "3.13"])
def bench(session: nox.Session) -> None:
    """Measure against peers, in half an hour on a quiet machine."""
    session.install("--editable", ".", "--requirement", "tests/benchmarks/requirements.txt")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)
