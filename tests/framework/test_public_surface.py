"""What the package shows to its users: names, docstrings, errors, and what it imports."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from starlette.exceptions import HTTPException

import framework
from framework import exceptions
from tests.patience import PATIENCE

NAMES = {
    "CancelAnswer",
    "CancelOutcome",
    "DuplicateTaskError",
    "FrameworkError",
    "FrameworkNotStartedError",
    "QueueFullError",
    "RateLimitExceededError",
    "MapItem",
    "ScheduleInfo",
    "Task",
    "TaskCancelledError",
    "TaskFailedError",
    "TaskId",
    "TaskInterruptedError",
    "TaskManager",
    "TaskMap",
    "TaskNotFoundError",
    "TaskPage",
    "TaskStatus",
    "TaskTimeoutError",
    "ThreadPoolExecutorEnhanced",
    "async_task",
    "background_task",
    "current_task",
    "get_task_manager",
    "get_thread_pool",
    "retry_task",
    "scheduled_task",
    "setup_async_framework",
    "throttled_task",
}
ERRORS: list[tuple[type[exceptions.FrameworkError], dict[str, Any]]] = [
    (exceptions.FrameworkNotStartedError, {"state": "stopped"}),
    (exceptions.QueueFullError, {"queue_size": 10, "retry_after": 2.5}),
    (
        exceptions.RateLimitExceededError,
        {"name": "call", "rate_limit": 5, "time_window": 60.0, "retry_after": 2.5},
    ),
    (exceptions.TaskCancelledError, {"task_id": "1", "name": "call"}),
    (exceptions.TaskFailedError, {"task_id": "1", "name": "call"}),
    (exceptions.TaskInterruptedError, {"task_id": "1", "name": "call"}),
    (exceptions.TaskNotFoundError, {"task_id": "1", "name": "call"}),
    (exceptions.TaskTimeoutError, {"task_id": "1", "name": "call", "limit": 2.5}),
    (exceptions.DuplicateTaskError, {"name": "call", "task_id": "1"}),
    (exceptions.ScheduleBusyError, {"name": "nightly"}),
    (exceptions.ScheduleNotFoundError, {"name": "nightly", "known": ("hourly",)}),
    (exceptions.DeadlockError, {"chain": ("one", "two", "one")}),
    (exceptions.RunAgainError, {"task_id": "1", "name": "call", "reason": "it is running"}),
    (exceptions.RemoteTaskError, {"type_name": "shop.SoldOutError", "text": "none is left"}),
    (exceptions.StoreUnavailableError, {"reason": "the disk is full"}),
    (exceptions.BrokerUnavailableError, {"reason": "connection refused"}),
]
NAMED_ERRORS = pytest.mark.parametrize(
    ("cls", "fields"), ERRORS, ids=[cls.__name__ for cls, _ in ERRORS]
)


def modules() -> list[str]:
    """Return the names of the package's modules.

    Without the example and what serves it: its schedule would run in every framework that
    a later test starts.
    """
    found = [module.name for module in pkgutil.walk_packages(framework.__path__, "framework.")]
    return [name for name in found if not name.endswith(("__main__", "example"))]


def public_objects() -> Iterator[tuple[str, object]]:
    """Yield what users are meant to touch: public names and the public members of classes."""
    for module in (framework, *map(importlib.import_module, ("framework.testing",))):
        for name in module.__all__:
            value = getattr(module, name)
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                yield from members(f"{module.__name__}.{name}", value)


def members(path: str, cls: type) -> Iterator[tuple[str, object]]:
    """Yield the public methods and properties that *cls* itself defines in our code."""
    for base in cls.__mro__:
        if base.__module__.split(".")[0] != "framework":
            continue
        for name, value in vars(base).items():
            if not name.startswith("_") and (callable(value) or isinstance(value, property)):
                yield f"{path}.{name}", value


def run(code: str) -> str:
    """Run *code* in a fresh interpreter that finds this framework; return what it prints."""
    root = str(Path(framework.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


# -- names


def test_all() -> None:
    """The package exports exactly the names of its contract, sorted and each once."""
    assert framework.__all__ == sorted(framework.__all__)
    assert len(framework.__all__) == len(set(framework.__all__))
    assert set(framework.__all__) == NAMES


def test_all_is_defined() -> None:
    """Every public name of the package is exported, and nothing else is public."""
    shown = {
        name
        for name, value in vars(framework).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", "").split(".")[0] == "framework"
    }

    assert shown == NAMES


@pytest.mark.parametrize("name", modules())
def test_module_exports_what_it_has(name: str) -> None:
    """Every name that a module lists in ``__all__`` exists."""
    module = importlib.import_module(name)

    for exported in getattr(module, "__all__", ()):
        assert hasattr(module, exported)


@pytest.mark.parametrize(
    "module",
    [
        "framework",
        "framework.engines.celery",
        "framework.http",
        "framework.protocols",
        "framework.stores.sql",
        "framework.telemetry.prometheus",
        "framework.testing",
    ],
)
def test_exports_say_where_they_are_imported_from(module: str) -> None:
    """What a public module exports names a public module as its own, and is found there."""
    face = importlib.import_module(module)
    for name in face.__all__:
        exported = getattr(face, name)
        if name not in ("BUCKETS", "Kind", "RunClaim"):  # a tuple, and aliases of typing's
            assert "._" not in exported.__module__
            assert getattr(importlib.import_module(exported.__module__), name) is exported


def test_errors_are_exported() -> None:
    """Every error that the framework defines is listed in its module, and tested here."""
    defined = {
        name
        for name, value in vars(exceptions).items()
        if inspect.isclass(value)
        and value.__module__ == exceptions.__name__
        and not name.startswith("_")
    }

    assert set(exceptions.__all__) == defined
    assert {cls.__name__ for cls, _ in ERRORS} == defined - {"FrameworkError"}


# -- docstrings


@pytest.mark.parametrize(
    "path", sorted({path for path, _ in public_objects() if not path.endswith(".submit")})
)
def test_has_docstring(path: str) -> None:
    """A public object says in one line, with a full stop, what it is or does."""
    value = dict(public_objects())[path]
    doc = inspect.getdoc(value)

    assert doc
    assert doc.splitlines()[0].rstrip(" :").endswith((".", "?"))


@pytest.mark.parametrize("name", modules())
def test_module_has_docstring(name: str) -> None:
    """A module says in its first line what it is for."""
    assert (importlib.import_module(name).__doc__ or "").strip()


# -- errors


@NAMED_ERRORS
@pytest.mark.parametrize("form", ["positional", "keyword"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_error_pickles(
    cls: type[exceptions.FrameworkError], fields: dict[str, Any], form: str, protocol: int
) -> None:
    """An error survives pickling with its type, its fields and its text."""
    error = cls(*fields.values()) if form == "positional" else cls(**fields)

    again = pickle.loads(pickle.dumps(error, protocol))

    assert type(again) is cls
    assert {name: getattr(again, name) for name in fields} == fields
    assert str(again) == str(error)
    assert repr(again) == repr(error)


@NAMED_ERRORS
def test_error_copies(cls: type[exceptions.FrameworkError], fields: dict[str, Any]) -> None:
    """An error can be copied with its fields."""
    again = copy.copy(cls(**fields))

    assert {name: getattr(again, name) for name in fields} == fields


@NAMED_ERRORS
def test_error_repr(cls: type[exceptions.FrameworkError], fields: dict[str, Any]) -> None:
    """An error's repr names its class and its fields."""
    shown = repr(cls(**fields))

    assert shown.startswith(f"{cls.__name__}(")
    assert all(repr(value) in shown for value in fields.values())


@NAMED_ERRORS
def test_error_is_one_of_ours(cls: type[exceptions.FrameworkError], fields: object) -> None:
    """One ``except FrameworkError`` catches every error of the framework."""
    assert issubclass(cls, framework.FrameworkError)


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        ("FrameworkNotStartedError", RuntimeError),
        ("QueueFullError", HTTPException),
        ("RateLimitExceededError", HTTPException),
        ("TaskNotFoundError", LookupError),
        ("TaskTimeoutError", TimeoutError),
    ],
)
def test_error_has_its_built_in(cls: str, base: type[Exception]) -> None:
    """An error is also the built-in one that a caller would already catch."""
    assert issubclass(getattr(framework, cls), base)


def test_timeout_error_has_no_errno() -> None:
    """`TaskTimeoutError` does not take its fields for those of an operating system's error."""
    error = framework.TaskTimeoutError("1", "call", 2.5)

    assert (error.errno, error.strerror, error.filename) == (None, None, None)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (framework.QueueFullError(10, 2.1), 503),
        (framework.RateLimitExceededError("call", 5, 60.0, 2.1), 429),
    ],
    ids=["queue", "rate"],
)
def test_error_answers(error: HTTPException, status: int) -> None:
    """An error that a route lets through has a status and whole seconds to wait."""
    assert (error.status_code, error.headers) == (status, {"Retry-After": "3"})


# -- what it imports


def test_import_is_light() -> None:
    """`import framework` loads neither FastAPI nor the heavy parts of what it stands on."""
    heavy = [
        "fastapi",
        "pydantic",
        "starlette.applications",
        "uvicorn",
        "httpx",
        "sqlalchemy",
        "prometheus_client",
        "cronsim",
    ]

    assert run(f"import framework; print([m for m in {heavy!r} if m in sys.modules])") == "[]\n"


IMPORT_EACH = """
import importlib, os, pkgutil
def visit(name):
    if name.endswith(("__main__", "example")):
        return
    if os.fork():
        os.wait()
        return
    module = importlib.import_module(name)
    print(name, "fastapi" in sys.modules, flush=True)
    for child in pkgutil.iter_modules(getattr(module, "__path__", ()), name + "."):
        visit(child.name)
    os._exit(0)
visit("framework")
"""
"""Imports each module where only its own packages have been, as an import of it alone would."""


def test_every_module_imports_alone() -> None:
    """Every module but the example can be imported first, and only the routes bring FastAPI."""
    told = dict(line.split() for line in run(IMPORT_EACH).splitlines())
    named = ["framework", *modules()]
    assert told == {name: str(name.startswith("framework.http")) for name in named}


def test_import_starts_nothing() -> None:
    """Importing starts no thread and changes no signal handler."""
    code = """
import signal, threading
before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
import framework
after = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
print(before == after, threading.active_count())
"""
    assert run(code) == "True 1\n"


def program(*arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """Run ``python -m`` with some arguments, after a line of Python."""
    line = f"import runpy, sys; {before}; sys.argv = {list(arguments)!r}; "
    line += f"runpy.run_module({arguments[0]!r}, run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-c", line], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("arguments", [(), ("-h",), ("--help",), ("help",)], ids=" ".join)
def test_help(arguments: tuple[str, ...]) -> None:
    """Asked for help, or for nothing, the command line says what there is and succeeds."""
    done = program("framework", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m framework.example" in done.stdout
    assert "python -m framework doctor module:celery_app" in done.stdout


def test_an_unknown_command() -> None:
    """An unknown command is named, the known ones are listed, and the exit status is 2."""
    done = program("framework", "serve")
    assert (done.returncode, done.stdout) == (2, "")
    assert "invalid choice: 'serve' (choose from " in done.stderr


def test_version() -> None:
    """The package knows its version, which is the distribution's."""
    assert program("framework", "--version").stdout == f"asyncframe {framework.__version__}\n"
    assert framework.__version__ == metadata.version("asyncframe")


def test_the_example_without_its_server() -> None:
    """Where uvicorn is missing, the example says which command installs it."""
    done = program("framework.example", before="sys.modules['uvicorn'] = None")
    assert done.returncode == 1
    assert done.stderr == (
        "the example needs uvicorn, which is not installed: pip install uvicorn\n"
    )
