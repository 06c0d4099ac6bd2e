"""Points at the lines or bytecodes of the user's code, for the levels ``line`` and ``opcode``.

Only those count that other threads could notice: a line that touches local variables alone
is none; see `bytecode`. Followed is each function in a file under the root directory, of
tasks, routes and whatever they call, but for the test's own body and its fixtures.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import CodeType

from pytest_asyncframe._explore.points import bytecode
from pytest_asyncframe._places import is_users_file

if sys.version_info >= (3, 12):
    from pytest_asyncframe._explore.points.monitoring import Monitoring as _Follower
else:
    from pytest_asyncframe._explore.points.tracing import Tracing as _Follower

_INSTALLED = {"site-packages", "dist-packages"}
"""Folders of installed packages, in environments for other tools too."""


class Scope:
    """Which functions are followed.

    Args:
        root: The root directory of the tests.
        own: The code of the test and its fixtures, which is not followed.
    """

    def __init__(self, root: Path, own: Collection[CodeType]) -> None:
        self._root = root.resolve()
        self._own = own
        self._files: dict[str, str] = {}

    def file_of(self, code: CodeType) -> str:
        """Return the file of a function, from the root directory; "" if it is not followed."""
        name = code.co_name
        if not code.co_flags & inspect.CO_OPTIMIZED:
            # The body of a module or of a class runs once, when it is imported.
            return ""
        if name == "__del__" or name.startswith("pytest_"):
            # The first may run anywhere, with any lock held.
            return ""
        if any(code is own for own in self._own):
            return ""
        file = code.co_filename
        if file not in self._files:
            self._files[file] = self._under_root(file)
        return self._files[file]

    def _under_root(self, file: str) -> str:
        path = Path(file).resolve()
        if not is_users_file(file) or not path.is_relative_to(self._root):
            return ""
        found = path.relative_to(self._root)
        return "" if _INSTALLED.intersection(found.parts) else found.as_posix()


class Lines:
    """Follows the user's code through all runs of one test.

    Args:
        level: "line" or "opcode".
        scope: Which functions are followed.
    """

    def __init__(self, level: str, scope: Scope) -> None:
        self._scope = scope
        self._named = bytecode.bytecodes if level == "opcode" else bytecode.lines
        self._follower = _Follower(level, self._places)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep what Python gives to one tool at a time, for all runs.

        Raises:
            pytest.UsageError: If another tool has it.
        """
        self._follower.claim()
        try:
            yield
        finally:
            self._follower.free()

    def calling(
        self,
        point: Callable[[str, str], object],
        on_other: Callable[[str], object] = lambda _: None,
    ) -> AbstractContextManager[None]:
        """Call *point* before each place, inside the block, which is one run.

        Args:
            point: Called with the level and the name of the place, on the thread that is
                about to run it, which it may block. That thread's innermost frame of the
                user's code is the one that stands at the place; see `users_frame`. What it
                calls itself is not followed. What it raises, the user's code raises.
            on_other: Called with the name of another tool that takes over on a thread, so
                that there are no points for a while.
        """
        return self._follower.calling(point, on_other)

    def begin_thread(self) -> None:
        """Follow the calling thread. Called on each thread that becomes an actor."""
        self._follower.begin_thread()

    def _places(self, code: CodeType) -> Mapping[int, str]:
        file = self._scope.file_of(code)
        return self._named(code, file) if file else {}
