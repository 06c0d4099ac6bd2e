"""Run CPython's own thread-pool tests against another executor class.

The suite, `test.test_concurrent_futures`, is found on the machine at run time and is
never copied. Its test classes are written against an `executor_type`; this script puts
the class under test in place of `concurrent.futures.ThreadPoolExecutor` before the suite
is imported, so that the mixins, the tests that name the class, and the scripts that the
tests start in fresh interpreters all use it.

Run it with any supported Python that can import `framework`:

    python tests/cpython/runner.py [-k PATTERN]

`ASYNCFRAME_EXECUTOR=concurrent.futures:ThreadPoolExecutor` runs the stock class instead,
which shows whether a failure is ours or the interpreter's.

The last line is `ran=N failures=N errors=N skipped=N`; `ran` leaves out the skipped. The
exit status is 0 if all passed, 1 if not, and 77 if no suite was found.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import faulthandler
import fnmatch
import importlib
import importlib.util
import os
import sys
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_EXECUTOR = "framework:ThreadPoolExecutorEnhanced"
SUITE = "test.test_concurrent_futures"
# `test_deadlock` has no class for threads today; one that comes later is picked up.
MODULES = (
    "test_thread_pool",
    "test_wait",
    "test_as_completed",
    "test_shutdown",
    "test_init",
    "test_deadlock",
)
SEARCH = (
    (Path("/"), "usr/lib/python3.*"),
    (Path("/"), "usr/local/lib/python3.*"),
    (Path("/"), "opt/*/lib/python3.*"),
    (Path.home(), ".pyenv/versions/3.*/lib/python3.*"),
    (Path.home(), ".local/share/uv/python/*/lib/python3.*"),
)
FEWEST_TESTS = 44  # of 47 in the suite of Python 3.13.5; older ones have two fewer
TIME_LIMIT = 1_800.0
NO_SUITE = 77


class Fault(NamedTuple):
    """A test that the stock class of older Pythons fails; it excuses no other class."""

    method: str
    fixed_in: tuple[int, int, int]
    reason: str


FAULTS = (
    Fault(
        "test_swallows_falsey_exceptions",
        (3, 13, 4),
        "result() of this Python drops an exception that is false (gh-132063)",
    ),
    Fault(
        "test_process_fork_from_a_threadpool",
        (3, 13, 4),
        "this Python joins the parent's threads at the end of a forked child (gh-88110)",
    ),
)


class SuiteNotFoundError(Exception):
    """No Python on this machine has the files of the suite."""


def load_executor() -> type[ThreadPoolExecutor]:
    """Return the class under test, by default ours."""
    module, _, name = os.environ.get("ASYNCFRAME_EXECUTOR", DEFAULT_EXECUTOR).partition(":")
    executor: type[ThreadPoolExecutor] = getattr(importlib.import_module(module), name)
    return executor


def other_libraries() -> list[Path]:
    """Return the standard libraries of all Pythons found, nearest version first."""
    found = [path for root, pattern in SEARCH for path in sorted(root.glob(pattern))]
    minors = {path: path.name.removeprefix("python3.") for path in found}
    usable = [path for path in found if minors[path].isdecimal()]
    return sorted(usable, key=lambda path: abs(int(minors[path]) - sys.version_info.minor))


def locate() -> Path:
    """Return the folder of the suite: this Python's own, else that of the nearest version.

    Raises:
        SuiteNotFoundError: If no Python on this machine has it, or this one has no
            `test.support`, without which no suite can run.
    """
    support = importlib.util.find_spec("test.support")
    if support is None or support.origin is None:
        raise SuiteNotFoundError
    own = Path(support.origin).parents[2]
    for library in (own, *other_libraries()):
        suite = library.joinpath(*SUITE.split("."))
        if (suite / "test_thread_pool.py").is_file():
            return suite
    raise SuiteNotFoundError


def sleeping_retry(
    limit: float, message: str | None = None, /, *, error: bool = True, **_: float
) -> Iterator[None]:
    """Yield with pauses until *limit* seconds are over, as Python 3.12 does."""
    pause = 0.05
    for _attempt in range(int(limit / pause)):
        yield
        threading.Event().wait(pause)
    if error:
        raise AssertionError(message or f"timeout ({limit:.1f} seconds)")


def add_missing_support(support: Any) -> None:
    """Give an older Python the names that a newer suite asks for.

    Args:
        support: The module `test.support`, which has no types.
    """
    if not hasattr(os, "process_cpu_count"):
        os.process_cpu_count = os.cpu_count  # type: ignore[attr-defined]
    if not hasattr(support, "sleeping_retry"):
        support.sleeping_retry = sleeping_retry
    if not hasattr(support, "Py_GIL_DISABLED"):
        support.Py_GIL_DISABLED = False
        support.requires_gil_enabled = lambda _reason: lambda function: function
        support.skip_if_sanitizer = lambda *_, **__: lambda function: function


def install(executor: type[ThreadPoolExecutor]) -> None:
    """Put *executor* in the stock class's place and make the suite importable.

    Args:
        executor: The class under test.

    Raises:
        SuiteNotFoundError: If no Python on this machine has the suite.
    """
    folder = locate()
    add_missing_support(importlib.import_module("test.support"))
    concurrent.futures.ThreadPoolExecutor = executor  # type: ignore[misc]
    setattr(concurrent.futures, executor.__name__, executor)
    # By its file, since an older `test` package may hold a module of the same name.
    spec = importlib.util.spec_from_file_location(
        SUITE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None  # noqa: PT018 -- for the type checker
    package = importlib.util.module_from_spec(spec)
    sys.modules[SUITE] = package
    spec.loader.exec_module(package)


def patch_scripts() -> None:
    """Make the scripts that tests run with `python -I -c` use the class under test."""
    helper: Any = importlib.import_module("test.support.script_helper")
    run = helper.run_python_until_end
    prelude = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "import runner; runner.install(runner.load_executor())\n"
    )

    def run_with_prelude(flag: str, script: str, *args: str, **env: str) -> Any:
        assert flag == "-c", f"the suite ran {flag!r}, but only '-c' is known here"
        return run(flag, prelude + script, *args, **env)

    helper.run_python_until_end = run_with_prelude


def flatten(tests: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Yield the test cases of a nested suite."""
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def adapt(case: unittest.TestCase, *, stock: bool) -> unittest.TestCase:
    """Return *case* with what this interpreter cannot do taken out of it.

    Args:
        case: A test of the suite; it is changed.
        stock: Whether the class under test is the interpreter's own.
    """
    method = case.id().rpartition(".")[2]
    for fault in FAULTS:
        if stock and method == fault.method and sys.version_info < fault.fixed_in:
            setattr(case, method, unittest.skip(fault.reason)(getattr(case, method)))
    if method == "test_process_fork_from_a_threadpool" and sys.version_info < (3, 12):
        # The warning it waits for came with 3.12; what it checks of the pool did not.
        case.assertWarnsRegex = lambda *_: contextlib.nullcontext()  # type: ignore[assignment]
    return case


def collect(executor: type[ThreadPoolExecutor], pattern: str) -> unittest.TestSuite:
    """Return the tests whose `executor_type` is *executor* and whose id fits *pattern*."""
    loader = unittest.defaultTestLoader
    modules = [importlib.import_module(f"{SUITE}.{name}") for name in MODULES]
    cases = (case for module in modules for case in flatten(loader.loadTestsFromModule(module)))
    return unittest.TestSuite(
        adapt(case, stock=executor is ThreadPoolExecutor)
        for case in cases
        if getattr(case, "executor_type", None) is executor and fnmatch.fnmatch(case.id(), pattern)
    )


def run(pattern: str) -> int:
    """Run the suite, report on standard output, and return the exit status."""
    executor = load_executor()
    install(executor)
    patch_scripts()
    support: Any = importlib.import_module("test.support")
    support.verbose = 0
    support.use_resources = None  # every resource, so `walltime` and `cpu` tests run too
    tests = collect(executor, pattern)
    # Counted here, since `testsRun` counts skipped tests on some Pythons and not on others.
    found = tests.countTestCases()
    result = unittest.TextTestRunner(sys.stdout, verbosity=2).run(tests)
    ran = found - len(result.skipped)
    problems = []
    if not result.wasSuccessful():
        problems.append("tests failed")
    if ran < FEWEST_TESTS and pattern == "*":
        problems.append(f"only {ran} tests ran, at least {FEWEST_TESTS} were expected")
    # Older threading_cleanup() sets it for threads that are just about to end.
    if support.environment_altered and sys.version_info >= (3, 11, 5):
        problems.append("a test left threads or processes behind, see the warnings above")
    print(f"{executor.__module__}.{executor.__qualname__} on Python {sys.version.split()[0]}")
    print(f"suite: {sys.modules[SUITE].__file__}")
    for problem in problems:
        print(f"FAILED: {problem}")
    print(
        f"ran={ran} failures={len(result.failures) + len(result.unexpectedSuccesses)}"
        f" errors={len(result.errors)} skipped={len(result.skipped)}",
        flush=True,
    )
    return 1 if problems else 0


def main() -> int:
    """Read the command line, run the suite, and return the exit status."""
    parser = argparse.ArgumentParser(description="Run CPython's thread-pool tests.")
    parser.add_argument("-k", dest="pattern", default="*", help="run ids with this in them")
    pattern = parser.parse_args().pattern
    faulthandler.dump_traceback_later(TIME_LIMIT, exit=True)
    try:
        return run(pattern if pattern == "*" else f"*{pattern}*")
    except SuiteNotFoundError:
        print(f"no Python on this machine has {SUITE}; on Debian install libpython3.13-testsuite")
        return NO_SUITE
    finally:
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    sys.exit(main())
