"""A file beside a SQLite file, in which whoever writes says up to what there will be.

SQLite tells nobody that others have written. To ask it takes a transaction each time, but to read
some bytes of a file takes none.

Guarantees: a process says it before it commits, while it has SQLite's write lock. So it is said in
order, and is never less than what is committed. It may be more, if a transaction was rolled back,
until somebody beats.
Relies on: writers that say it. Of others, and where the file cannot be written, nobody hears; that
is found out by `BoardLink.check`.
Lock order: there is no lock but SQLite's.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from framework._threads.clock import SystemClock
from framework._threads.loggers import SafeLogger
from framework.stores.sql._dialects.link import Read

_LOGGER = SafeLogger("asyncframe")

ENDING: Final = "-news"
"""The ending of its name, which otherwise is that of the database."""

DEAF: Final = 60.0
"""For how many seconds a board is not believed on which a commit was missing."""

_SAID: Final = struct.Struct("<qqq")
_FLAGS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Board:
    """The file. It is opened anew each time: it may have been removed or replaced.

    Args:
        database: The path of SQLite's file.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._path = database + ENDING
        self._fails = False

    def say(self, version: int, asked: int, free: int) -> None:
        """Say up to what there will be, and how many tasks may be free then.

        With SQLite's write lock, on any thread.
        """
        try:
            descriptor = self._opened()
            try:
                os.write(descriptor, _SAID.pack(version, asked, free))
            finally:
                os.close(descriptor)
            self._fails = False
        except OSError as error:
            if not self._fails:
                self._fails = True
                _LOGGER.warning(
                    "the file %s cannot be written, so the other processes may notice a second "
                    "later what this one has written: %s",
                    self._path,
                    error,
                )

    def read(self) -> tuple[Read, int] | None:
        """Return what was said last; None if that cannot be read."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | _FLAGS)
            try:
                said = os.read(descriptor, _SAID.size)
            finally:
                os.close(descriptor)
            version, asked, free = _SAID.unpack(said.ljust(_SAID.size, b"\0"))
        except (OSError, struct.error):
            return None
        return (version, asked), free

    def _opened(self) -> int:
        try:
            return os.open(self._path, os.O_WRONLY | _FLAGS)
        except FileNotFoundError:
            return self._made()

    def _made(self) -> int:
        """Create it for those who may use the database, as SQLite does with its own files."""
        database = os.stat(self._database)  # noqa: PTH116  # its path is a text
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | _FLAGS, 0o600)
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, database.st_mode & 0o777)
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            os.fchown(descriptor, database.st_uid, database.st_gid)
        return descriptor


class BoardLink:
    """What a process learns from a board; see `link.Link`.

    Args:
        board: The board.
        clock: Real time.
    """

    presence = None
    tells = False
    is_called = False

    def __init__(self, board: Board, clock: SystemClock) -> None:
        self._board = board
        self._clock = clock
        self._deaf_until = 0.0

    def start(self, process_id: str) -> None:
        """Do nothing: there is nothing to keep."""

    def belong(self, process_id: str) -> None:
        """Do nothing: nothing here belongs to a process."""

    def may_have_news(self, read: Read) -> bool:
        """Return whether something else is said, or what is said is not believed."""
        said = self._board.read()
        return self._clock.monotonic() < self._deaf_until or said is None or said[0] != read

    def offers(self, read: Read) -> bool:
        """Return whether something else is said, and that tasks are free in it."""
        said = self._board.read()
        return said is not None and said[0] != read and said[1] > 0

    def looks(self) -> None:
        """Do nothing: what is said stays."""

    def follow(self, closely: bool) -> None:
        """Do nothing: all is said to all, and costs next to nothing."""

    @property
    def called(self) -> None:
        """Nobody is called: everybody reads of what is free."""
        return

    def answers(self) -> None:
        """Do nothing, as there are no calls."""

    def check(self, found: bool, read: Read) -> None:
        """Believe nothing for a while if something was committed and not said before."""
        said = self._board.read()
        if found and said is not None and said[0] == read:
            self._deaf_until = self._clock.monotonic() + DEAF

    def close(self) -> None:
        """Do nothing: nothing is open."""
