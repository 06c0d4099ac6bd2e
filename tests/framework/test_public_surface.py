"""What the package shows to its users: names, docstrings, errors, and what it imports."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest
from starlette.exceptions import HTTPException

import framework
from framework import cli, exceptions
from tests.children import python
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
    "StepInfo",
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
    (exceptions.StepMismatchError, {"task_id": "1", "name": "shop.charge"}),
    (
        exceptions.MessageRefusedError,
        {"task_id": "1", "name": "approval", "reason": "the task has ended"},
    ),
    (exceptions.StepInterruptedError, {"task_id": "1", "name": "shop.charge"}),
    (exceptions.StepTakenError, {"task_id": "1"}),
    (exceptions.DeadlockError, {"chain": ("one", "two", "one")}),
    (exceptions.RunAgainError, {"task_id": "1", "name": "call", "reason": "it is running"}),
    (exceptions.RemoteTaskError, {"type_name": "shop.SoldOutError", "text": "none is left"}),
    (exceptions.NoWorkersError, {"name": "shop.send"}),
    (exceptions.StoreUnavailableError, {"reason": "the disk is full"}),
    (exceptions.BrokerUnavailableError, {"reason": "connection refused"}),
]
PUBLIC_MODULES = (
    "framework",
    "framework.engines.celery",
    "framework.http",
    "framework.protocols",
    "framework.stores.sql",
    "framework.telemetry.prometheus",
    "framework.testing",
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


def run(code: str, *, patience: float = PATIENCE) -> str:
    """Run *code* in a fresh interpreter that finds this framework; return what it prints."""
    return python("-W", "error", "-c", f"import sys\n{code}", patience=patience).stdout


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


def test_exports_say_where_they_are_imported_from() -> None:
    """What a public module exports names a public module as its own, and is found there."""
    wrong = []
    for face in map(importlib.import_module, PUBLIC_MODULES):
        # A tuple, and aliases.
        for name in set(face.__all__) - {"BUCKETS", "Kind", "RunClaim", "Sent"}:
            exported = getattr(face, name)
            home = importlib.import_module(exported.__module__)
            if "._" in home.__name__ or getattr(home, name, None) is not exported:
                wrong.append(f"{face.__name__}.{name}")
    assert not wrong, wrong


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


def test_what_is_public_has_a_docstring() -> None:
    """A public object says in one line, with a full stop, what it is or does."""
    first_lines = {
        path: (inspect.getdoc(value) or "").partition("\n")[0].rstrip(" :")
        for path, value in public_objects()
        if not path.endswith(".submit")
    }
    wrong = {path: line for path, line in first_lines.items() if not line.endswith((".", "?"))}
    assert len(first_lines) > 100
    assert not wrong, wrong


def test_modules_have_docstrings() -> None:
    """A module says in its first line what it is for, a private one too, which ruff leaves out."""
    assert len(modules()) > 100
    lacking = [
        name for name in modules() if not (importlib.import_module(name).__doc__ or "").strip()
    ]
    assert not lacking, lacking


# -- errors


def test_errors_pickle() -> None:
    """Each error survives pickling and copying with its type, its fields and its text."""
    wrong = []
    for cls, fields in ERRORS:
        for error in (cls(*fields.values()), cls(**fields)):
            copies = [
                pickle.loads(pickle.dumps(error, protocol))
                for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
            ]
            for number, again in enumerate([*copies, copy.copy(error)]):
                same = type(again) is cls and (str(again), repr(again)) == (str(error), repr(error))
                if not same or {name: getattr(again, name) for name in fields} != fields:
                    wrong.append((number, again))
    assert not wrong, wrong


def test_the_repr_of_an_error() -> None:
    """An error's repr names its class and its fields."""
    shown = {cls: repr(cls(**fields)) for cls, fields in ERRORS}
    wrong = [
        shown[cls]
        for cls, fields in ERRORS
        if not shown[cls].startswith(f"{cls.__name__}(")
        or not all(repr(value) in shown[cls] for value in fields.values())
    ]
    assert not wrong, wrong


def test_what_catches_an_error() -> None:
    """``except FrameworkError`` catches each error, and so does a built-in one that fits."""
    ours: type[BaseException] = framework.FrameworkError
    built_in: dict[type[BaseException], type[BaseException]] = {
        framework.FrameworkNotStartedError: RuntimeError,
        framework.QueueFullError: HTTPException,
        framework.RateLimitExceededError: HTTPException,
        framework.TaskNotFoundError: LookupError,
        framework.TaskTimeoutError: TimeoutError,
    }
    expected = [*built_in.items(), *((cls, ours) for cls, _ in ERRORS)]
    assert [cls for cls, base in expected if not issubclass(cls, base)] == []


def test_timeout_error_has_no_errno() -> None:
    """`TaskTimeoutError` does not take its fields for those of an operating system's error."""
    error = framework.TaskTimeoutError("1", "call", 2.5)

    assert (error.errno, error.strerror, error.filename) == (None, None, None)


def test_an_error_that_a_route_lets_through_is_answered() -> None:
    """It has a status, and the whole seconds, at least one, after which to come again."""
    errors: list[HTTPException] = [
        framework.QueueFullError(10, 2.0),
        framework.QueueFullError(10, 2.1),
        framework.RateLimitExceededError("call", 5, 60.0, 0.001),
        framework.RateLimitExceededError("call", 5, 60.0, 12.001),
    ]
    answers = [(error.status_code, error.headers) for error in errors]
    expected = [(503, "2"), (503, "3"), (429, "1"), (429, "13")]
    assert answers == [(status, {"Retry-After": seconds}) for status, seconds in expected]


# -- what it imports


@pytest.mark.extended("processes")
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


@pytest.mark.timeout(660)
@pytest.mark.extended("processes")
def test_every_module_imports_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every module but the example can be imported first, and only the routes bring FastAPI."""
    # Coverage would measure two hundred processes one by one, which takes minutes.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    told = dict(line.split() for line in run(IMPORT_EACH, patience=10 * PATIENCE).splitlines())
    named = ["framework", *modules()]
    assert told == {name: str(name.startswith("framework.http")) for name in named}


@pytest.mark.extended("processes")
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


def program(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``python -m`` with some arguments."""
    return python("-m", *arguments, status=status)


@pytest.mark.extended("processes")
def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for help, or for nothing, the command line says in 79 columns what there is."""
    done = program("framework", "--help")
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) < 80
    assert "python -m framework.example" in done.stdout
    assert "python -m framework doctor module:celery_app" in done.stdout
    shown = []
    for arguments in ([], ["help"]):
        assert cli.main(arguments) == 0
        shown.append(capsys.readouterr())
    with pytest.raises(SystemExit) as ended:
        cli.main(["-h"])
    assert ended.value.code == 0
    shown.append(capsys.readouterr())
    assert [one.err for one in shown] == [""] * 3
    assert len({one.out for one in shown}) == 1
    assert "python -m framework.example" in shown[0].out


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command is named, the known ones are listed, and the exit status is 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve"])
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert "invalid choice: 'serve' (choose from " in told.err


@pytest.mark.extended("processes")
def test_version() -> None:
    """The package knows its version, which is the distribution's."""
    assert program("framework", "--version").stdout == f"asyncframe {framework.__version__}\n"
    assert framework.__version__ == metadata.version("asyncframe")


@pytest.mark.extended("processes")
def test_the_example_without_its_server() -> None:
    """Where uvicorn is missing, the example says which command installs it."""
    line = "import runpy, sys; sys.modules['uvicorn'] = None; sys.argv = ['framework.example']; "
    line += "runpy.run_module('framework.example', run_name='__main__', alter_sys=True)"
    assert python("-c", line, status=1).stderr == (
        "the example needs uvicorn, which is not installed: pip install uvicorn\n"
    )
