"""Points at the lines or bytecodes of the user's code, for the levels ``line`` and ``opcode``.

Only those count that other threads could notice: a line that touches local variables alone
is none; see `bytecode`. Followed is each function in a file under the root directory, of
tasks, routes and whatever they call, but for the test's own body and its fixtures. So is
each one in the packages that the ini file names.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType

import pytest

from pytest_asyncframe._explore.points import bytecode
from pytest_asyncframe._explore.points.packages import explored_packages
from pytest_asyncframe._explore.points.sharing import Sharing
from pytest_asyncframe._locations import is_users_file
from pytest_asyncframe._toolkit.items import code_of

if sys.version_info >= (3, 12):
    from pytest_asyncframe._explore.points.monitoring import Monitoring as _Tool
else:
    from pytest_asyncframe._explore.points.tracing import Tracing as _Tool

_INSTALLED = {"site-packages", "dist-packages"}
"""Folders of installed packages, in environments for other tools too."""


class Followed:
    """Which functions are followed.

    Args:
        root: The root directory of the tests.
        own: The code of the test and its fixtures.
        packages: Folders and files elsewhere that are followed too.
        with_own: Whether *own* is followed too.
    """

    def __init__(
        self,
        root: Path,
        own: Collection[CodeType],
        packages: Collection[Path] = (),
        *,
        with_own: bool = False,
    ) -> None:
        self._root = root.resolve()
        self._own = own
        self._packages = packages
        self._with_own = with_own
        self._files: dict[str, str] = {}

    def file_of(self, code: CodeType) -> str:
        """Return the file of a function, from the root directory; "" if it is not followed.

        That of a package begins with the name of the package.
        """
        name = code.co_name
        if not code.co_flags & inspect.CO_OPTIMIZED:
            # The body of a module or of a class runs once, when it is imported.
            return ""
        if name == "__del__" or name.startswith("pytest_"):
            # The first may run anywhere, with any lock held.
            return ""
        if not self._with_own and self.is_own(code):
            return ""
        file = code.co_filename
        if file not in self._files:
            self._files[file] = self._of_package(file) or self._under_root(file)
        return self._files[file]

    def is_own(self, code: CodeType) -> bool:
        """Whether code is that of the test or its fixtures."""
        return any(code is own for own in self._own)

    def _of_package(self, file: str) -> str:
        path = Path(file).resolve() if self._packages else Path()
        for place in self._packages:
            if path.is_relative_to(place):
                return path.relative_to(place.parent).as_posix()
        return ""

    def _under_root(self, file: str) -> str:
        path = Path(file).resolve()
        if not is_users_file(file) or not path.is_relative_to(self._root):
            return ""
        found = path.relative_to(self._root)
        return "" if _INSTALLED.intersection(found.parts) else found.as_posix()


def followed_of(item: pytest.Item, *, with_own: bool = False) -> Followed:
    """Return which functions are followed in an explored test.

    Args:
        item: The test.
        with_own: Whether its own body and its fixtures are followed too.

    Raises:
        pytest.UsageError: If the ini file names a package that cannot be explored.
    """
    packages = explored_packages(item.config)
    return Followed(item.config.rootpath, code_of(item), packages, with_own=with_own)


class Follower(_Tool):
    """Follows the user's code through all runs of one test.

    Args:
        level: "line" or "opcode".
        scope: Which functions are followed.

    Attributes:
        sharing: Which of their lines others may notice.
    """

    def __init__(self, level: str, scope: Followed) -> None:
        super().__init__(level)
        self._scope = scope
        self.sharing: Sharing = Sharing()
        self._named = bytecode.bytecodes if level == "opcode" else bytecode.lines

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep what Python gives to one tool at a time, for all runs.

        Raises:
            pytest.UsageError: If another tool has it.
        """
        self.claim()
        try:
            yield
        finally:
            self.free()

    def locations_of(self, code: CodeType) -> Mapping[int, str]:
        """Return the names of the locations of a function; see `Monitoring`."""
        file = self._scope.file_of(code)
        return self._named(code, file) if file else {}
