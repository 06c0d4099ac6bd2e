"""Whether the code of a task has changed since its steps were recorded.

The code is the files of the package that defines the task's function, at its top, or of its module
if that is in no package. A change anywhere in it may lead a task elsewhere, and a deploy that
changes nothing there counts as none.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framework._tasks.functions import bare_function


def code_of(fn: Callable[..., Any]) -> str:
    """Return a digest of a function's code; blocks for the first function of each package."""
    found = bare_function(fn)
    name: str = getattr(found, "__module__", None) or ""
    digest = _digest_of(name)
    if digest is None:
        # Typed by hand, or made from a text.
        code = getattr(found, "__code__", None)
        text = b"" if code is None else code.co_code + repr(code.co_consts).encode()
        return hashlib.blake2b(text, digest_size=12).hexdigest()
    return digest


@functools.cache
def _digest_of(module: str) -> str | None:
    """Return the digest of the package at the top of a module's name; None if it has no file."""
    top = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None)
    own = getattr(sys.modules.get(module), "__file__", None)
    # A folder without __init__.py may have parts of anybody's.
    main = top or own
    if main is None:
        return None
    path = Path(main)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    made = hashlib.blake2b(digest_size=12)
    for one in files:
        made.update(one.relative_to(path.parent).as_posix().encode())
        try:
            made.update(one.read_bytes())
        except OSError:  # it is gone again, or nobody may read it
            continue
    return made.hexdigest()
