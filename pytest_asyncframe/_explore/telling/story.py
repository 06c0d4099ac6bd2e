"""What happened in a run, in words: who was paused where, and what others did meanwhile.

The entries of a run are told by a `Witness`; `told` makes sentences of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_MOST_LINES = 3
"""How many lines of one actor in a row are told: the last ones."""

_WHERE = {"line": "before", "opcode": "inside"}
"""How far an actor has come in the line at which it stands, by the kind of point."""

_MOST_TURNS = 12
"""How many turns are told in all; those in the middle are left out."""


@dataclass(slots=True)
class Ran:
    """A line of the user's code that somebody ran.

    Attributes:
        who: The identity of the task, the coroutine or the thread.
        location: The file and the line, as ``shop.py:14``.
        source: The line.
        function: The name of the function that it is in.
        value: What it has set, as ``left = 1``; "" if it has set nothing or is not known to.
    """

    who: str
    location: str
    source: str
    function: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Deviation:
    """A choice that was not the default.

    Attributes:
        default: The identity of who would have gone on.
        taken: The identity of who came instead.
        kind: The kind of point; see `Chooser`.
        paused: Whether *default* stood at a point and could have gone on.
        location: Where *default* stood, as ``shop.py:14``; "" if not known.
        source: The line there.
        what: What it was about to do; see `Step`.
    """

    default: str
    taken: str
    kind: str
    paused: bool
    location: str = ""
    source: str = ""
    what: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a task.

    Attributes:
        who: Its identity.
        how: How, as "completed".
    """

    who: str
    how: str


Entry: TypeAlias = Ran | Deviation | Ended


@dataclass(slots=True)
class Turn:
    """What one actor did in a row.

    Attributes:
        who: Its identity.
        lines: The lines that it ran, in order.
        goes_on: Whether it had been paused before.
        ended: How its task ended in this turn; "" if it did not.
        paused: Where it was paused at the end; None if it was not.
    """

    who: str
    lines: list[Ran]
    goes_on: bool = False
    ended: str = ""
    paused: Deviation | None = None


def turns(entries: Iterable[Entry]) -> list[Turn | Deviation]:
    """Return the turns of a run, and the choices among those of whom none could go on."""
    found: list[Turn | Deviation] = []
    paused: set[str] = set()
    for entry in entries:
        if isinstance(entry, Deviation) and not entry.paused:
            found.append(entry)
            continue
        who = entry.default if isinstance(entry, Deviation) else entry.who
        last = found[-1] if found else None
        if not isinstance(last, Turn) or last.who != who or last.paused is not None:
            last = Turn(who, [], goes_on=who in paused)
            paused.discard(who)
            found.append(last)
        if isinstance(entry, Ran):
            last.lines.append(entry)
        elif isinstance(entry, Ended):
            last.ended = entry.how
        else:
            last.paused = entry
            paused.add(who)
    return found


def told(entries: Sequence[Entry]) -> list[str]:
    """Return the story of a run, a sentence a line; [] if nothing was chosen but the default."""
    all_turns = turns(entries)
    paused = [isinstance(one, Deviation) or one.paused is not None for one in all_turns]
    chosen = [number for number, is_so in enumerate(paused) if is_so]
    if not chosen:
        return []
    resumed = [n for n, one in enumerate(all_turns) if isinstance(one, Turn) and one.goes_on]
    last = max(chosen[-1], *resumed, 0)
    sentences = [_sentence(one) for one in all_turns[chosen[0] : last + 1]]
    return shortened(sentences, _MOST_TURNS, "... {} turns left out")


def shortened(texts: list[str], most: int, left_out: str) -> list[str]:
    """Return so many texts at the most, with *left_out* for how many in the middle."""
    more = len(texts) - most
    half = most // 2
    return texts if more <= 1 else [*texts[:half], left_out.format(more), *texts[-half:]]


def _sentence(one: Turn | Deviation) -> str:
    if isinstance(one, Deviation):
        return f"{one.taken} came before {one.default}"
    if one.paused is not None:
        return _pause(one, one.paused)
    ran = _lines(one.lines)
    if one.ended:
        begun = "went on to its end" if one.goes_on else "ran to its end"
        ended = "" if one.ended == "completed" else f", and {one.ended}"
        return f"{one.who} {begun}{': ' if ran else ''}{ran}{ended}"
    return f"{one.who} {'went on' if one.goes_on else 'ran'}{': ' if ran else ''}{ran}"


def _pause(turn: Turn, pause: Deviation) -> str:
    said = f"{turn.who} {'went on and ' if turn.goes_on else ''}paused"
    if pause.source:
        where = _WHERE.get(pause.kind, "at")
        said += f" {where} `{pause.source}` ({pause.location})"
    elif pause.what:
        said += f" at {pause.what}"
    before = [line for line in turn.lines if line.location != pause.location or not pause.source]
    # What it has set says more than what it has asked.
    latest = next((line for line in reversed(before) if line.value), before[-1] if before else None)
    return said if latest is None else f"{said}, after {_line(latest)}"


def _lines(lines: Sequence[Ran]) -> str:
    """Return the last of some lines of one actor, each once in a row, with what they set."""
    shown = [_line(line) for line in lines]
    several = [text for text, _ in itertools.groupby(shown)]
    left_out = len(several) - _MOST_LINES
    return "; ".join(["..."] * (left_out > 0) + several[-_MOST_LINES:])


def _line(line: Ran) -> str:
    return f"`{line.source}`" + (f" ({line.value})" if line.value else "")
