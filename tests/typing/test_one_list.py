"""An option is added in one place: a line in a copy of the package, and everything follows."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import framework

pytestmark = pytest.mark.extended("processes")

ROOT = Path(__file__).parents[2]
HAS_MYPY = importlib.util.find_spec("mypy") is not None
COUNT = "partial(checks.integer, at_least=1)"
ADDED = {
    "RetryOptions": f'tries: Annotated[int, "How many tries.", {COUNT}, Default(7)]',
    "ThrottleOptions": f'burst: Annotated[int, "How many at once.", {COUNT}, Default(2)]',
    "RunOptions": f'rank: Annotated[int, "How urgent.", {COUNT}, Default(5)]',
    "OnceOptions": 'batch: Annotated[str, "What it belongs to.", checks.text, Default("")]',
}
"""The line that is added to each list of options."""

SCRIPT = """
import asyncio
import inspect
from collections.abc import Callable
from typing import Any, assert_type

from framework import TaskId, TaskManager, async_task, background_task, get_task_manager
from framework import retry_task, setup_async_framework, throttled_task
from framework._running.waits.retry import RetryPolicy
from framework._tasks.specs import TaskSpec


@retry_task(tries=2)
def retried() -> int:
    return 1


@throttled_task(rate_limit=1, burst=3)
def throttled() -> int:
    return 1


@background_task(rank=1)
def background() -> int:
    return 1


@async_task(rank=1)
def awaited() -> int:
    return 1


def types_are_known(policy: RetryPolicy, spec: TaskSpec, manager: TaskManager) -> None:
    assert_type(policy.options["tries"], int)
    assert_type(spec.options["batch"], str)
    retry_task(tries="2")  # type: ignore[call-overload]
    retried.options(tries="2")  # type: ignore[arg-type]
    throttled_task(rate_limit=1, burst="2")  # type: ignore[arg-type]
    throttled.options(burst="2")  # type: ignore[arg-type]
    background_task(rank="2")  # type: ignore[call-overload]
    background_task(batch="b")  # type: ignore[call-overload]  # an option of single tasks
    background.options(batch=2)  # type: ignore[arg-type]
    awaited.options(rank="2")  # type: ignore[arg-type]
    manager.submit_nowait(len, ("a",), batch=2)  # type: ignore[call-overload]


def options_of(decorated: object) -> Any:
    kept: Any = getattr(decorated, "__asyncframe_policy__", None)
    return (kept or getattr(decorated, "__asyncframe_spec__")).options


def policies_and_specs_have_them() -> None:
    assert options_of(retried)["tries"] == 2
    assert options_of(retried.options(backoff=2))["tries"] == 2
    assert options_of(retried.options(tries=3))["tries"] == 3
    assert options_of(retry_task(len))["tries"] == 7
    assert options_of(throttled.options(rate_limit=2))["burst"] == 3
    assert options_of(background)["rank"] == 1
    assert options_of(background.options(batch="b")) == options_of(background) | {"batch": "b"}
    assert options_of(awaited.options(rank=2))["rank"] == 2


def signatures_and_docstrings_have_them(manager: TaskManager) -> None:
    functions: list[tuple[Callable[..., Any], str, object]] = [
        (retry_task, "tries: How many tries.", 7),
        (throttled_task, "burst: How many at once.", 2),
        (background_task, "rank: How urgent.", 5),
        (async_task, "rank: How urgent.", 5),
        (manager.submit, "batch: What it belongs to.", ""),
    ]
    for function, line, default in functions:
        option = line.partition(":")[0]
        assert inspect.signature(function).parameters[option].default == default
        assert line in (function.__doc__ or ""), function
    assert "rank" in inspect.signature(manager.submit_nowait).parameters
    assert "tries" in inspect.signature(retried.options).parameters
    assert "batch" in inspect.signature(background.options).parameters


def bad_values_are_refused(manager: TaskManager) -> None:
    calls: list[tuple[Callable[..., Any], str]] = [
        (retry_task, "tries"),
        (retried.options, "tries"),
        (throttled.options, "burst"),
        (background_task, "rank"),
        (awaited.options, "rank"),
        (lambda rank: manager.submit_nowait(len, ("a",), rank=rank), "rank"),
    ]
    for call, option in calls:
        try:
            call(**{option: 0})
        except ValueError as error:
            assert str(error) == f"{option} must be a whole number of at least 1, not 0"
        else:
            raise AssertionError(option)


async def submissions_have_them(manager: TaskManager) -> None:
    first = assert_type(await manager.submit(len, ("a",), rank=3, delay=60), TaskId[int])
    second = manager.submit_nowait(background, rank=4, batch="b", delay=60)
    for task_id, rank, batch in ((first, 3, ""), (second, 4, "b")):
        task = manager._core.ledger.find_live(task_id)
        assert task is not None
        assert (task.spec.options["rank"], task.spec.options["batch"]) == (rank, batch)
        assert await manager.cancel_task(task_id)


async def main() -> None:
    async with setup_async_framework(None):
        manager = get_task_manager()
        policies_and_specs_have_them()
        signatures_and_docstrings_have_them(manager)
        bad_values_are_refused(manager)
        await submissions_have_them(manager)


asyncio.run(main())
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the package, add one line to each list of options, and put the script beside it."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(
        Path(framework.__file__).parent,
        folder / "framework",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    declared = folder / "framework" / "_tasks" / "options.py"
    lines = declared.read_text("utf-8").splitlines()
    for name, line in ADDED.items():
        (at,) = (number for number, text in enumerate(lines) if text.startswith(f"class {name}("))
        lines.insert(at + 2, f"    {line}")  # below the docstring
    declared.write_text("\n".join(lines), "utf-8")
    (folder / "script.py").write_text(SCRIPT, "utf-8")
    return folder


def _unmeasured() -> dict[str, str]:
    """Return the environment without coverage's: lines of a copy are none of the package's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the copy of the package in place of the package."""
    paths = {"PYTHONPATH": str(tree), "MYPYPATH": str(tree)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={**_unmeasured(), **paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_line_adds_an_option(tree: Path) -> None:
    """Decorators, copies, submit, signatures, docstrings, checks, policies and specs have it."""
    done = run(tree, "script.py")

    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(300)
@pytest.mark.skipif(not HAS_MYPY and "CI" not in os.environ, reason="mypy is not installed")
def test_type_checkers_see_an_option_that_one_line_adds(tree: Path) -> None:
    """The name and the type of each are known to mypy, wherever it is given or read."""
    done = run(tree, "-m", "mypy", "--strict", "--cache-dir", str(tree / "cache"), "script.py")

    assert done.returncode == 0, done.stdout + done.stderr
