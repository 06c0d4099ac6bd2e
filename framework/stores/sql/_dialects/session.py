"""A session that a process keeps with the server, beside those of its transactions.

It holds a lock while the process lives, which the server frees at once when the process is killed;
and it hears when others commit, so that nobody has to ask again and again.

Guarantees: `Session.presence` is what it says only while the lock is held. What was committed while
it did not hear is read by whoever looks after `Session.hears` has become true.
Relies on: a server that gives the session to nobody else. A pooler that does is found out when the
session begins, and by `Session.check` later: then it neither holds nor hears.
Lock order: there is no lock. Its own thread alone assigns what it holds, as one tuple, and the
store's thread alone assigns whose it is to be.
"""

from __future__ import annotations

import hashlib
import selectors
import socket
import threading
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from typing import Final, NamedTuple, Protocol

from framework._threads.clock import SystemClock
from framework.stores.sql._dialects.link import Read, Told

_PAUSE: Final = 1.0
"""Seconds until the next attempt to have a session; doubled after each one that fails."""

_SOON: Final = 0.02
"""Seconds until the next attempt to follow closely, if a writer has the lock."""

_PAUSE_MAX: Final = 16.0
"""The longest pause: a server that never gives one is not asked each second."""

DEAF: Final = 60.0
"""For how many seconds a session is not believed that has not heard of a commit."""


class PooledError(Exception):
    """Sessions of this server are not kept: a pooler gives each transaction another one."""


class Heard(NamedTuple):
    """What a session has heard.

    Attributes:
        wrote: Which processes have committed; "" for one that does not say.
        called: How many were called before this process to take free tasks; None if it is not.
    """

    wrote: Collection[str]
    called: int | None


class Kept(Protocol):
    """One session, as the dialect makes it; all but `close` raise an error if it is lost.

    Attributes:
        server: Which run of the server it is with: after a restart it is another one.
    """

    server: str

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something to hear."""
        ...

    def hold(self, key: int) -> bool:
        """Hold a lock, and no other; False if it is not to be had yet."""
        ...

    def follow(self, closely: bool) -> bool:
        """Hear of every commit from now on, or only of some; False if it does not yet."""
        ...

    def hear(self) -> Heard:
        """Return what was to hear since the last call."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def key_of(process_id: str) -> int:
    """Return the number of a process's lock, which has 64 bits."""
    return int.from_bytes(hashlib.sha256(process_id.encode()).digest()[:8], signed=True)


class Session:
    """Keeps one session on a thread of its own; makes another one when it is lost; see `link.Link`.

    Args:
        open_one: Begins one. It raises `PooledError`, or an error of the database.
        faults: The errors of a database.
        clock: Real time.
        told: Called when others have committed, or may have.
    """

    tells = True

    def __init__(
        self,
        open_one: Callable[[], Kept],
        faults: tuple[type[Exception], ...],
        clock: SystemClock,
        told: Told,
    ) -> None:
        self._open_one = open_one
        self._faults = faults
        self._clock = clock
        self._told = told
        self._process_id = ""
        # The process and the server of the lock that is held.
        self._held: tuple[str, str] | None = None
        self._hears = False
        # Whether it is to follow closely, and whether it does.
        self._closely = self._follows = False
        self._called: int | None = None
        self._deaf_until = 0.0
        # How much it has heard, of its own process too; what that was at the last look; and what it
        # was when a commit was found without being heard of.
        self._heard = self._heard_before = 0
        self._found_at: int | None = None
        self._news = threading.Event()
        self._looked = threading.Event()
        self._closing = False
        # Its other end wakes the thread.
        self._woken: socket.socket | None = None
        self._wakes: socket.socket | None = None
        self._thread: threading.Thread | None = None

    # -- the store's thread

    def start(self, process_id: str) -> None:
        """Begin, for a process."""
        self.belong(process_id)
        self._woken, self._wakes = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="asyncframe-session", daemon=True)
        self._thread.start()

    def belong(self, process_id: str) -> None:
        """Hold the lock of another process from now on: this one has a new id."""
        self._process_id = process_id
        self._wake()

    @property
    def presence(self) -> str | None:
        """With which run of the server this process holds its lock; None if it does not."""
        held = self._held
        return held[1] if held is not None and held[0] == self._process_id else None

    def follow(self, closely: bool) -> None:
        """Hear of every commit of the others; or, if not closely, of those that all must hear of.

        It takes a moment until it does, in which it does not count as hearing.
        """
        if closely != self._closely:
            self._closely = closely
            self._wake()

    @property
    def hears(self) -> bool:
        """Whether it hears of all that it is to hear of."""
        is_behind = self._closely and not self._follows
        return self.is_called and not is_behind

    @property
    def is_called(self) -> bool:
        """Whether this process would be called to take free tasks."""
        return self._hears and self._clock.monotonic() >= self._deaf_until

    @property
    def called(self) -> int | None:
        """How many others were called before this process to take free tasks; None if it is not."""
        return self._called

    def answers(self) -> None:
        """Note that this process takes free tasks now."""
        self._called = None
        self._looked.set()

    @property
    def has_news(self) -> bool:
        """Whether others have committed since the last look, as far as it hears."""
        return self._news.is_set()

    def may_have_news(self, read: Read) -> bool:
        """Return whether it has heard something, or does not hear."""
        return self.has_news or not self.hears

    def offers(self, read: Read) -> bool:
        """Return False: one process is called for what is free, or finds it with its beat."""
        return False

    def looks(self) -> None:
        """Note that what is committed is read now."""
        self._heard_before = self._heard
        self._news.clear()
        self._looked.set()

    def check(self, found: bool, read: Read) -> None:
        """Note whether there was something new to find; once for each beat, before a look.

        It may be heard of a moment later, but not a whole beat later. It says nothing about one
        that does not follow closely.
        """
        if not self._follows:
            self._found_at = None
            return
        if self._found_at == self._heard and self._hears:
            self._deaf_until = self._clock.monotonic() + DEAF
        is_unheard = found and self._heard == self._heard_before and not self.has_news
        self._found_at = self._heard if is_unheard else None

    def close(self) -> None:
        """End the session, and with it the lock; blocks for a moment."""
        self._closing = True
        self._looked.set()
        self._wake()
        thread = self._thread
        if thread is not None:
            thread.join(_PAUSE)
            if not thread.is_alive():
                # Otherwise it is still connecting, and ends by itself.
                for one in (self._woken, self._wakes):
                    assert one is not None
                    one.close()

    def _wake(self) -> None:
        if self._wakes is not None:
            with suppress(OSError):
                self._wakes.send(b"\0")

    # -- its own thread

    def _run(self) -> None:
        pause = _PAUSE
        while not self._closing:
            try:
                with closing(self._open_one()) as kept:
                    pause = _PAUSE
                    self._keep(kept)
            except PooledError:
                return
            except self._faults:
                pass
            finally:
                self._held, self._hears, self._follows = None, False, False
            if not self._closing:
                self._wait(None, pause)
                pause = min(2 * pause, _PAUSE_MAX)

    def _keep(self, kept: Kept) -> None:
        """Hold and hear until the session is lost, which raises an error."""
        pause = self._arrange(kept)
        self._hears = True
        # All that was committed before.
        self._tell()
        while not self._closing:
            self._wait(kept, pause)
            # Always: what has come with the answer to a statement makes nothing readable.
            found = kept.hear()
            self._heard += len(found.wrote)
            if found.called is not None:
                self._called = found.called
            is_news = bool(set(found.wrote) - {self._process_id})
            if is_news or found.called is not None:
                self._looked.clear()
                self._tell(is_news)
                # Whatever else comes until then is read by the same look.
                self._looked.wait(_PAUSE)
            pause = self._arrange(kept)

    def _arrange(self, kept: Kept) -> float | None:
        """Hold and follow as it is to; return in how many seconds to try again, None for never."""
        before = self._held
        missing = self._hold(kept)
        wanted = self._closely
        if wanted != self._follows:
            if not kept.follow(wanted):
                return _SOON
            self._follows = wanted
            if wanted and self._hears:
                # What was committed before; all else is heard of.
                self._tell()
            return 0.0
        if missing:
            return _PAUSE
        return None if before == self._held else 0.0

    def _hold(self, kept: Kept) -> bool:
        """Hold the lock of the process that this one is now; return whether it is still missing."""
        wanted = self._process_id
        if self._held is not None and self._held[0] == wanted:
            return False
        found = kept.hold(key_of(wanted))
        self._held = (wanted, kept.server) if found else None
        return not found

    def _tell(self, is_news: bool = True) -> None:
        if is_news:
            self._news.set()
        self._told()

    def _wait(self, kept: Kept | None, seconds: float | None) -> None:
        """Wait until there is something to hear, or to do."""
        assert self._woken is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if kept is not None:
                selector.register(kept, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select(seconds)]
        if self._woken in ready:
            self._woken.recv(4096)
