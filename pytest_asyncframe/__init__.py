"""The pytest plugin of asyncframe: tests of tasks that never sleep.

Needs the extra ``pytest``.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("pytest") is None:
    raise ImportError("tests of tasks need pytest: install the extra 'pytest' of asyncframe")
