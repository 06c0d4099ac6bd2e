"""Run CPython's own asyncio tests on the event loop of the pytest plugin, and on the stock one.

Each test that passes on the stock loop must pass on a loop on a virtual clock, in the mode
"auto", but for those that `asyncio_plugin.py` excludes with a reason. The suite,
`test.test_asyncio`, is that of the Python that runs this, and is never copied:

    python tests/cpython/asyncio_runner.py [MODULE ...]

The last line is `ran=N failures=N excluded=N`. The exit status is 0 if all passed, 1 if not,
and 77 if this Python has no such suite.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
SUITE = "test.test_asyncio"
MODULES = (
    "base_events",
    "buffered_proto",
    "context",
    "events",
    "futures",
    "futures2",
    "locks",
    "pep492",
    "protocols",
    "queues",
    "runners",
    "selector_events",
    "sendfile",
    "server",
    "sock_lowlevel",
    "ssl",
    "sslproto",
    "streams",
    "subprocess",
    "taskgroups",
    "tasks",
    "threads",
    "timeouts",
    "transports",
    "unix_events",
    "waitfor",
)
FEWEST_TESTS = 1_000
TIME_LIMIT = 600.0
NO_SUITE = 77

INI = """
[pytest]
addopts = --noconftest -p asyncio_plugin -p no:cacheprovider -p no:randomly
    -p no:asyncio -p no:anyio
asyncframe_leaks = off
asyncframe_lost_failures = off
timeout = 120
"""


class Run:
    """One run of the suite, in a process of its own.

    Args:
        loops: "stock", or "ours" for loops on a virtual clock.
        folder: Where it writes.
        modules: What is run, by the names in `MODULES`.
    """

    def __init__(self, loops: str, folder: Path, modules: Sequence[str]) -> None:
        self.loops = loops
        self._log = folder / f"{loops}.log"
        self._outcomes = folder / f"{loops}.json"
        ini = folder / "pytest.ini"
        ini.write_text(INI, "utf-8")
        command = [sys.executable, "-m", "pytest", "-c", str(ini), "-vv", "--tb=short"]
        command += ["--rootdir", str(library()), "--pyargs"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, *(f"{SUITE}.test_{name}" for name in modules)],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ASYNCFRAME_LOOPS": self.loops,
            "ASYNCFRAME_OUTCOMES": str(self._outcomes),
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        }

    def outcomes(self, patience: float) -> dict[str, str]:
        """Return how each test ended, once all have.

        Raises:
            SuiteError: If the run did not come to its end; its log says where it stood.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._process.kill()
        self._process.wait()
        if not self._outcomes.exists():
            raise SuiteError(f"the run on {self.loops} loops did not end:\n{self.log[-5000:]}")
        found: dict[str, str] = json.loads(self._outcomes.read_text("utf-8"))
        return found

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text("utf-8", errors="replace")


class SuiteError(Exception):
    """A run that gives no outcomes."""


def library() -> Path:
    """Return the folder of this Python's own suite.

    Raises:
        ModuleNotFoundError: If it was installed without.
    """
    spec = importlib.util.find_spec(SUITE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(SUITE)
    return Path(spec.origin).parents[2]


def run(modules: Sequence[str], folder: Path) -> int:
    """Run modules on both kinds of loop, at once, and compare; return the exit status."""
    runs = [Run(loops, folder, modules) for loops in ("stock", "ours")]
    stock, ours = (one.outcomes(TIME_LIMIT) for one in runs)
    passed = {name for name, outcome in stock.items() if outcome == "passed"}
    excluded = passed - ours.keys()
    worse = sorted(name for name in passed & ours.keys() if ours[name] != "passed")
    ran = len(passed & ours.keys())
    if worse:
        print(runs[1].log)
    for name in worse:
        print(f"FAILED: {name} passes on the stock loop, and is {ours[name]} on a virtual clock")
    if few := set(modules) == set(MODULES) and ran < FEWEST_TESTS:
        print(f"FAILED: only {ran} tests ran, at least {FEWEST_TESTS} were expected")
    print(f"asyncio's tests on Python {sys.version.split()[0]}, {len(passed)} pass on its own loop")
    print(f"ran={ran} failures={len(worse)} excluded={len(excluded)}", flush=True)
    return 1 if worse or few else 0


def main() -> int:
    """Run what is named on the command line, or all, and return the exit status."""
    modules = sys.argv[1:] or MODULES
    try:
        with tempfile.TemporaryDirectory() as folder:
            return run(modules, Path(folder))
    except ModuleNotFoundError as error:
        print(f"this Python has no {error}")
        return NO_SUITE
    except SuiteError as error:
        print(f"FAILED: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
