"""What happens in a run that is told: lines that ran, choices, ends of tasks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias


class Touch(NamedTuple):
    """What a line reads or changes that others may have too.

    Equal keys belong to the same variable, attribute, element or object, whatever the line calls
    it. Who changes a key gets into the way of others who read it.

    Attributes:
        reads: The keys of what it reads.
        changes: The keys of what it may change. What others change there matters to it only if
            it is among *reads* too.
        path: What the line calls it, as ``left["n"]``.
        seen: Its value before the line, as text; "" for none that can be shown.
    """

    reads: frozenset[Hashable]
    changes: frozenset[Hashable]
    path: str
    seen: str = ""


@dataclass(slots=True)
class Ran:
    """A line of the user's code that somebody ran.

    Attributes:
        who: The identity of the task, the coroutine or the thread.
        location: The file and the line, as ``shop.py:14``.
        source: The line.
        function: The name of the function that it is in.
        value: What it has set, as ``left = 1``; "" if it has set nothing or is not known to.
        name: What to call who ran it; "" for the identity.
        depth: How many calls of the user's code it is inside of.
        touches: What it reads or changes that others may have too.
        raised: The name of the error that it has ended with, "an error" if that is not known;
            "" for none.
        resumed: Whether it had begun before others ran, and an entry before tells of that.
        more: How often it ran after that in the same turn, of which nothing more is kept.
        is_end: Whether it is the end of the block of a ``with`` statement.
        thread: The identity of the thread; "" if that is not known.
    """

    who: str
    location: str
    source: str
    function: str = ""
    value: str = ""
    name: str = ""
    depth: int = 0
    touches: tuple[Touch, ...] = ()
    raised: str = ""
    resumed: bool = False
    is_end: bool = False
    more: int = 0
    thread: str = ""


@dataclass(frozen=True, slots=True)
class Deviation:
    """A choice that was not the default, the first one of a switch.

    Attributes:
        default: The identity of who would have gone on.
        taken: The identity of who came instead.
        kind: The kind of point; see `Chooser`.
        paused: Whether *default* stood at a point and could have gone on.
        location: Where *default* stood, as ``shop.py:14``; "" if not known.
        source: The line there.
        what: What it was about to do; see `Step`.
        packages: The packages of those of the two that are coroutines of libraries, by identity.
    """

    default: str
    taken: str
    kind: str
    paused: bool
    location: str = ""
    source: str = ""
    what: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a task or of a route.

    Attributes:
        who: Its identity.
        how: How, as "completed".
        name: What to call it; "" for the identity.
    """

    who: str
    how: str
    name: str = ""


Entry: TypeAlias = Ran | Deviation | Ended


@dataclass(frozen=True, slots=True)
class Failure:
    """How a run has failed.

    Attributes:
        text: The error, on one line.
        location: The line of the user's code that has failed, as ``test_shop.py:14``; "" if
            it is not known.
        source: The line.
    """

    text: str
    location: str = ""
    source: str = ""
