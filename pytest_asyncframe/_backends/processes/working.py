"""What a worker process of a test runs: ``asyncframe worker``, which ends with the test.

``python -m MODULE module:app FILE URL``, MODULE being this one, prints in JSON the names of the
functions that the app knows, before it becomes ``asyncframe worker``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import signal
import sys
import threading
from typing import Final

from framework.testing import registered_functions

KNOWN: Final = "functions: "
"""Begins the line with the names."""


def main(name: str, file: str, url: str) -> None:
    """Work until a signal comes, or the test's process has ended."""
    threading.Thread(target=_end_with_the_test, daemon=True).start()
    import_module(name.partition(":")[0], file)
    print(f"{KNOWN}{json.dumps(sorted(registered_functions()))}", flush=True)  # noqa: T201
    sys.argv = ["asyncframe", "worker", name, "--store", url]
    runpy.run_module("framework", run_name="__main__", alter_sys=True)


def import_module(name: str, file: str) -> None:
    """Import a module by its name, or from its file if it is in no folder of ``sys.path``.

    pytest imports test files so with ``--import-mode=importlib``.
    """
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def _end_with_the_test() -> None:
    """End this process when nobody holds the other end of its input any more."""
    # Not by `sys.stdin`, whose lock a forked child would wait for.
    while os.read(0, 1):
        pass
    # Windows has no SIGKILL, and ends a process at once by SIGTERM.
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


if __name__ == "__main__":
    main(*sys.argv[1:])
