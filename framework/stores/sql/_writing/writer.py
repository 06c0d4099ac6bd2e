"""The store's thread: it alone writes, and it reads what other processes write.

Guarantees: the thread ends only by `Writer.close`, whatever the database does.
Relies on: `_backlog` for what to write; no other thread writing this process's tasks.
Lock order: none of its own; all state belongs to the thread.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection
from typing import Final

from sqlalchemy.engine import Connection

from framework._threads.loggers import SafeLogger
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._reading.follower import BREATH, Follower
from framework.stores.sql._reading.mirror import Mirror
from framework.stores.sql._reading.pages import pages_of
from framework.stores.sql._shared import places as _places
from framework.stores.sql._shared.free import orphans as _orphans
from framework.stores.sql._shared.free.sharing import Sharing
from framework.stores.sql._shared.inquiries import InquiryRows
from framework.stores.sql._shared.membership import GivenUpError
from framework.stores.sql._shared.places import SharedLines, inherit, is_held_on
from framework.stores.sql._shared.schedules import ScheduleRows
from framework.stores.sql._shared.site import Site
from framework.stores.sql._shared.windows import WindowRows
from framework.stores.sql._tables.database import FAULTS, why
from framework.stores.sql._writing.batches import BATCH, ROUNDS, Batches

_LOGGER = SafeLogger("asyncframe")

_LINGER: Final = 5.0
"""For how many seconds the others are followed closely after nobody needs it any more."""

_ASKED: Final = 60.0
"""The same after somebody has asked for lists or counters."""

_AGAIN: Final = 10.0
"""After how many seconds the log tells of another message of a database that still fails."""

_LEAVING: Final = 0.5
"""For how many seconds a process that ends sets its tasks free: some 50,000 in a file."""


class Writer:
    """Writes one process's tasks, and reads those of the others.

    Args:
        site: What it works with.
        mirror: The tasks of all processes.
        keep_arguments: Longest call to keep, in bytes; 0 for none.

    Attributes:
        batches: Writes what waits.
        membership: This process's row, and the others'.
        follower: Reads what the others write.
        pages: The SQL that reads the history.
        lines: The places of unique and limited tasks.
        windows: The windows of throttles.
        schedules: The book of schedules; called on other threads.
        inquiries: Those of other processes, and this one's.
    """

    def __init__(self, site: Site, mirror: Mirror, keep_arguments: int = 0) -> None:
        self._site = site
        self._mirror = mirror
        self.statements = site.statements
        self.membership = site.membership
        self._database = site.database
        self._backlog = site.backlog
        self._clock = site.clock
        self._pace = site.pace
        self.pages = pages_of(site.statements)
        sharing = Sharing(site)
        self.follower = Follower(site, mirror, sharing)
        self.lines = SharedLines(site, self.follower.cancel)
        self.windows = WindowRows(site)
        self.inquiries = InquiryRows(site)
        self._closing = threading.Event()
        self.batches = Batches(
            site,
            mirror,
            self.follower,
            self.lines,
            sharing,
            keep_arguments,
            self._closing.wait,
        )
        self.schedules = ScheduleRows(site, self.batches.drafts.call_of)
        self._failing_since: float | None = None
        # When the log has told of the database's message, and which.
        self._said = (0.0, "")
        # Whether the others consider this process dead, and it has no new id yet.
        self._given_up = False
        self._pause = site.pace.pause_min
        self._looked = self._followed = 0.0
        # How many seconds the latest look took.
        self._took = 0.0
        # At once: what a process left that was killed is taken over by the next one that starts.
        self._watched = -math.inf
        # Until when it follows the others closely, and how often somebody had asked by then.
        self._close_until = -math.inf
        self._asked = 0
        # How many waited for the latest batch.
        self._crowd = 0
        self._end: float | None = None
        self._thread: threading.Thread | None = None

    # -- any thread

    def enter(self) -> None:
        """Enter, and read the history; blocks.

        Raises:
            SQLAlchemyError: If the database fails.
        """
        with self._database.writing() as connection:
            self._enter(connection)
        self.batches.pulse.given()
        self.follower.load(self.pages, self.batches.pulse.beat)
        with self._database.writing() as connection:
            self.inquiries.enter(connection)
            if self.statements.has_ended(connection, self.follower.removed):
                # A process has died, or ended, before all of these were deleted.
                self.batches.removal.ask(self.follower.removed)

    def _enter(self, connection: Connection) -> None:
        host = self._site.host
        self.membership.enter(connection, host.clock.time(), host.places, host.role)

    def start(self) -> None:
        """Start the thread, and the link."""
        self._site.link.start(self.membership.process_id)
        self._thread = threading.Thread(target=self._run, name="asyncframe-store", daemon=True)
        self._thread.start()

    def remove(self, bound: float, told: Collection[str] | None = None) -> None:
        """Remove what ended by wall second *bound* from the database as well; see `Removal.ask`."""
        # First, so that a read in progress does not bring a removed task back.
        self.follower.forget(bound)
        self.batches.removal.ask(bound, told)
        self._backlog.wake()

    def close(self, patience: float) -> bool:
        """Write what waits and leave within *patience* seconds; False if time ran out."""
        # In this order: the thread reads the end when it sees that it is to close.
        self._end = self._clock.monotonic() + patience
        self._closing.set()
        self._backlog.wake()
        thread = self._thread
        if thread is None:
            return True
        # A little longer than the thread has, so that a commit at the last moment counts.
        thread.join(min(patience + 0.05, threading.TIMEOUT_MAX))
        self._site.link.close()
        return not thread.is_alive() and not len(self._backlog)

    # -- the thread

    def _run(self) -> None:
        while not self._closing.is_set():
            self._sleep()
            if self._closing.is_set():
                break
            # Whoever is woken by others' commits has nothing to gather, and reads at once.
            has_more = self._backlog.waits or self._is_waited_for()
            if has_more and len(self._backlog) < BATCH:
                self._gather()
            self.attempt()
        self._finish()

    def _sleep(self) -> None:
        """Wait until something is due, or until there is something to write or to read."""
        self._attend()
        until = self._clock.monotonic() + self._until_due()
        longest = math.inf if self._site.link.tells else self._between_glances()
        while not self._backlog.sleep(min(longest, max(0.0, until - self._clock.monotonic()))):
            if self._clock.monotonic() >= until or self._is_to_look():
                return

    def _attend(self) -> None:
        """Follow the others closely while somebody here needs it, and for a while after."""
        now, asked, link = self._clock.monotonic(), self._mirror.asked, self._site.link
        waits = self.lines.waits or self.follower.chained.waiting
        if self.follower.told is not None or waits or self._site.host.in_line(1):
            self._close_until = max(self._close_until, now + _LINGER)
        if asked != self._asked:
            self._asked, self._close_until = asked, now + _ASKED
        is_close = now < self._close_until
        link.follow(is_close)
        self.follower.is_close = is_close or not link.tells

    def _gather(self) -> None:
        """Wait a moment, since records come in bursts: that makes one transaction of many."""
        pace, arrivals, gathering = self._pace, self.follower.arrivals, self._backlog.gathering
        gathering.hungry = bool(arrivals.waiting)
        # A claim that is due goes into the same transaction.
        longest = min(
            pace.answer if self._backlog.owes else pace.gather,
            max(0.0, arrivals.due_at - self._clock.monotonic()),
        )
        # While a transaction is under way, others gather by themselves: whoever waits, and came
        # alone before, need not wait for them.
        if gathering.until_urgent(longest, self._is_waited_for) and self._crowd > 1:
            gathering.until_whole(self._crowd, pace.hurry)
        # Those that were claimed together may end together.
        self._crowd = max(self._backlog.waiters + len(self.lines.requests), arrivals.many)

    def _is_waited_for(self) -> bool:
        # What has ended makes room: free tasks wait for that, and are claimed after it is written.
        return bool(
            self._backlog.waiters
            or self.lines.requests
            or self.windows.requests
            or self.follower.behind
        )

    def _until_due(self) -> float:
        """Return the seconds until the next look or beat, or until there is more to take over."""
        if self.follower.behind or self.follower.is_awaited or self.inquiries.waits:
            return 0.0
        between = self._pace.look if self.follower.is_close else self._pace.beat
        due_at = min(self._followed + between, self.batches.pulse.due_at)
        due_at = min(due_at, self.follower.arrivals.due_at)
        return max(0.0, min(due_at, self._look_at()) - self._clock.monotonic())

    def _is_to_look(self) -> bool:
        """Return whether it is time to read what others have written, if they may have."""
        return self._clock.monotonic() >= self._look_at()

    def _look_at(self) -> float:
        """Return the monotonic second at which to read what others may have written, or never."""
        pace, follower, link = self._pace, self.follower, self._site.link
        if not (follower.moved or link.may_have_news(follower.read_to)):
            return math.inf
        between = pace.look
        if follower.told is not None:
            between = min(between, max(pace.watch, 4 * self._took))
        elif link.offers(follower.read_to) and self._site.host.room():
            # A twentieth of the time: all that have a place look for what one of them gets.
            between = min(between, max(pace.claim, 19 * self._took))
        return self._looked + between

    def _between_glances(self) -> float:
        glance, watch = self._pace.glance, self._pace.watch
        return glance if self.follower.told is None else min(glance, watch)

    def _finish(self) -> None:
        """Write what is left while there is time, and leave."""
        end = self._end or 0.0
        self.batches.hurry()
        while self._clock.monotonic() < end:
            if self.attempt(following=False) and not (self._backlog.waits or self.lines.requests):
                try:
                    self._leave_tasks(end)
                    with self._site.turn() as (connection, version, _):
                        # Those places are free when this process counts as dead: its threads
                        # end with it.
                        if not is_held_on(connection, self.membership.process_id):
                            self.membership.leave(connection)
                            inherit(connection, version)
                except GivenUpError:  # its row is gone already
                    pass
                except FAULTS as error:
                    _LOGGER.warning("the store could not be closed cleanly: %s", why(error))
                return

    def _leave_tasks(self, end: float) -> None:
        """Set free what is left as it waits, until monotonic second *end* and for a moment.

        What is left then is found by the others, as what a dead process leaves.
        """
        end = min(end, self._clock.monotonic() + _LEAVING)
        own, more = self.membership.process_id, self._backlog.has_left
        while more and self._clock.monotonic() < end:
            with self._site.turn() as (connection, version, _):
                now = self._site.host.clock.time()
                more = _orphans.leave(connection, self._database.dialect, own, version, now)
                _places.leave_free(connection, version, own)

    def attempt(self, *, following: bool = True) -> bool:
        """Do once what is due; pause after a fault. True if all went well."""
        fault: BaseException | None = None
        tried = following or bool(self._backlog.waits or self.lines.requests)
        try:
            if following and not self._closing.is_set():
                # First: what is claimed for a call goes into the transaction of what is written.
                self.follower.arrivals.hear()
            fault = self._try_to_write()
            if fault is None:
                self.inquiries.settle()
            # Also after a fault: a process that cannot write tasks can perhaps still beat.
            if following and not self._closing.is_set():
                self.follow()
                if fault is None:
                    self.follower.share()
            self._move()
            if fault is None:
                self.batches.try_aside()
        except GivenUpError:
            fault = self._come_back()
        except FAULTS as error:
            fault = fault or error
        except Exception:  # a fault of our own must not end the thread either
            _LOGGER.exception("unexpected error in the store's thread")
            self._backlog.errors += 1
            self._closing.wait(self._pace.pause_max)
            return False
        if fault is not None:
            self._failed(fault)
            return False
        self._recovered(tried)
        return True

    def _try_to_write(self) -> BaseException | None:
        """Answer and write what waits; return the database's error, if any."""
        fault: BaseException | None = None
        # A task leaves its lines in the transaction that writes how it ended, or after it: nobody
        # who got its place finds it running. What was asked after that is answered at last.
        for step in (self.lines.settle, self.windows.settle, self.batches.write, self.lines.settle):
            try:
                step()
            except FAULTS as error:
                fault = fault or error
        return fault

    def _move(self) -> None:
        """Let go of finished tasks that only the database has to hold from now on."""
        for _ in range(ROUNDS):
            if not self._mirror.move():
                return
            self._clock.sleep(BREATH)

    def _failed(self, error: BaseException) -> None:
        self._backlog.errors += 1
        self._backlog.fault = text = why(error)
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since, self._said = now, (now, text)
            _LOGGER.error(
                "the store fails and is retried until it works; records are kept meanwhile: %s",
                text,
            )
        elif text != self._said[1] and now >= self._said[0] + _AGAIN:
            self._said = now, text
            seconds = now - self._failing_since
            _LOGGER.error("the store still fails after %.0f s, now with: %s", seconds, text)
        pause = self._pause if self._end is None else min(self._pause, max(0.0, self._end - now))
        self._pause = min(2 * self._pause, self._pace.pause_max)
        # Closing ends a pause. Once it has begun, that event is set and would not pause at all.
        self._closing.wait(pause) if self._end is None else threading.Event().wait(pause)

    def _recovered(self, tried: bool) -> None:
        self._pause = self._pace.pause_min
        # Whoever ends, and has nothing to write, has not asked the database.
        if self._failing_since is None or not tried:
            return
        seconds = self._clock.monotonic() - self._failing_since
        self._failing_since = None
        self._backlog.fault = ""
        _LOGGER.info("the store works again after %.1f s", seconds)

    # -- following the others

    def follow(self) -> None:
        """Read what the others have written, and whether they live, if it is time."""
        monotonic = self._clock.monotonic
        self._followed = monotonic()
        # Times are taken after each step: while this process waited for a lock, the others may
        # have waited, too, and must get their time to beat.
        pulse = self.batches.pulse
        if pulse.is_due() or monotonic() >= self._watched + self._pace.beat:
            self.follower.watch(pulse.beating())
            self._watched = monotonic()
        if self.follower.behind and not self._claims_soon():
            self.follower.go_on()
        if self.follower.is_awaited or self._is_to_look():
            since = monotonic()
            self.follower.look()
            self.inquiries.hear(self.follower.asked)
            self.lines.look(self.follower.version)
            self._looked = monotonic()
            self._took = self._looked - since

    def _claims_soon(self) -> bool:
        """Return whether a batch is to be written at once that claims free tasks as well."""
        waits = self._backlog.waits and self.batches.claims
        return waits and not self.follower.has_submissions

    def _come_back(self) -> BaseException | None:
        """Continue under a new id, since the others consider this process dead.

        Returns:
            Why it cannot yet; None if it does.
        """
        if not self._given_up:
            self._given_up = True
            _LOGGER.error(
                "this process gave no sign of life for so long that the others that share the "
                "store consider it dead: its unfinished tasks end INTERRUPTED. It stood still, or "
                "could not use the database while they could"
            )
            self._backlog.refuse_starts()
            self._site.host.interrupt("the process gave no sign of life, and the others gave it up")
            self.follower.chained.waiting.clear()
        try:
            with self._database.writing() as connection:
                self._enter(connection)
                self.inquiries.enter(connection)
        except (*FAULTS, StoreUnavailableError) as error:
            return error
        self._given_up = False
        return None
