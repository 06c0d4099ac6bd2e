"""Random programs of threads, and which of their events come before which, from their own log.

A program is drawn as one order of all its operations in which each can go on. What an operation
waits for was done before it there, and nobody else can take it away. So whoever waits longest is
free to go on at any time, and no order of the threads is a deadlock.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple, TypeAlias

Operation: TypeAlias = tuple[str, str]
"""What is done, and to what."""

_KINDS = ("mark", "mark", "mark", "lock", "lock", "put", "get", "set", "wait", "start", "join")


class Event(NamedTuple):
    """Something that has happened.

    Attributes:
        thread: The number of the thread.
        kind: What it has done.
        what: To what.
        item: What was put into a queue or got from there.
    """

    thread: int
    kind: str
    what: str
    item: int = 0


APP = """
import queue
import threading

programs, log, board, threads = [], [], {}, {}
locks = {name: threading.Lock() for name in ("l0", "l1")}
queues = {f"q{n}": queue.Queue() for n in range(2)}
queues |= {f"q{n}": queue.SimpleQueue() for n in range(2, 4)}
events = {name: threading.Event() for name in ("e0", "e1")}

def work(me):
    log.append((me, "begin", str(me)))
    for kind, what in programs[me]:
        if kind == "mark":
            log.append((me, kind, what))
            board[what] = me
        elif kind == "lock":
            locks[what].acquire()
            log.append((me, kind, what))
        elif kind == "unlock":
            log.append((me, kind, what))
            locks[what].release()
        elif kind == "put":
            item = len(log)
            log.append((me, kind, what, item))
            queues[what].put(item)
        elif kind == "get":
            log.append((me, "enter", what))
            item = queues[what].get()
            log.append((me, kind, what, item))
        elif kind == "set":
            log.append((me, kind, what))
            events[what].set()
        elif kind == "wait":
            log.append((me, "enter", what))
            events[what].wait()
            log.append((me, kind, what))
        elif kind == "start":
            log.append((me, kind, what))
            threads[what] = threading.Thread(target=work, args=(int(what),))
            threads[what].start()
        else:
            threads[what].join()
            log.append((me, kind, what))
    log.append((me, "end", str(me)))
"""
"""Runs a program. What it notes before an operation has happened before, and the reverse."""

HIDDEN = re.sub(
    r"((?:locks|queues|events|threads)\[what\])(\..*)", r"[one\2 for one in (\1,)][0]", APP
)
"""The same, where no line says which lock, queue, event or thread it uses."""


def drawn(seed: int, length: int = 60) -> list[list[Operation]]:
    """Return a random program: the operations of four threads, the first of which starts others."""
    draft = _Draft(random.Random(seed))
    for number in range(length):
        draft.add(number)
    draft.end()
    return draft.threads


class _Draft:
    """A program that is being drawn.

    Args:
        draw: Draws.

    Attributes:
        threads: The operations so far of each thread.
    """

    def __init__(self, draw: random.Random) -> None:
        self.threads: list[list[Operation]] = [[] for _ in range(4)]
        self._draw = draw
        self._begun, self._joined, self._happened = {0}, set[int](), set[str]()
        self._items, self._held = Counter[str](), dict[int, str]()

    def add(self, number: int) -> None:
        """Add an operation of a thread, if it is possible now."""
        me = self._draw.choice(sorted(self._begun - self._joined))
        kind = self._draw.choice(_KINDS)
        if kind in ("lock", "get", "wait", "join"):
            # Nobody waits with a lock.
            self.let_go(me)
        other = self._draw.randrange(4)
        what = f"m{number}" if kind == "mark" else str(getattr(self, f"_{kind}")(me, other))
        if what:
            self.threads[me].append((kind, what))

    def end(self) -> None:
        """Let the first thread wait for the others."""
        for thread in range(4):
            self.let_go(thread)
        left = sorted(self._begun - self._joined - {0})
        self.threads[0] += [("join", str(thread)) for thread in left]

    def let_go(self, thread: int) -> None:
        """Let a thread give back the lock that it has, if any."""
        if thread in self._held:
            self.threads[thread].append(("unlock", self._held.pop(thread)))

    def _lock(self, me: int, other: int) -> str:
        self._held[me] = f"l{other % 2}"
        return self._held[me]

    def _put(self, me: int, other: int) -> str:
        self._items[f"q{other}"] += 1
        return f"q{other}"

    def _get(self, me: int, other: int) -> str:
        if not self._items[f"q{me}"]:
            return ""
        self._items[f"q{me}"] -= 1
        return f"q{me}"

    def _set(self, me: int, other: int) -> str:
        self._happened.add(f"e{other % 2}")
        return f"e{other % 2}"

    def _wait(self, me: int, other: int) -> str:
        return f"e{other % 2}" if f"e{other % 2}" in self._happened else ""

    def _start(self, me: int, other: int) -> str:
        if me or other in self._begun:
            return ""
        self._begun.add(other)
        return str(other)

    def _join(self, me: int, other: int) -> str:
        if me or not other or other not in self._begun - self._joined:
            return ""
        self.let_go(other)
        self._joined.add(other)
        return str(other)


def before(log: list[Event], locked: Collection[str] = ()) -> list[set[int]]:
    """Return for each event which events come before it.

    Args:
        log: The events.
        locked: What has a lock inside, so that two events at it come one after the other, whatever
            they are. If nothing is named, only what a program may rely on counts: an item is put
            before it is got.
    """
    found: list[set[int]] = []
    for number, event in enumerate(log):
        mine = set[int]()
        for earlier, one in enumerate(log[:number]):
            if one.thread == event.thread or _leads_to(one, event, locked):
                mine |= {earlier, *found[earlier]}
        found.append(mine)
    return found


def _leads_to(one: Event, other: Event, locked: Collection[str]) -> bool:
    is_same = one.what == other.what
    if is_same and one.what in locked:
        return True
    match one.kind, other.kind:
        case ("unlock", "lock") | ("set", "wait") | ("start", "begin") | ("end", "join"):
            return is_same
        case "put", "get":
            return is_same and (one.item == other.item or bool(locked))
    return False
