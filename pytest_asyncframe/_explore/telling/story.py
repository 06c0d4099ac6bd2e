"""What happened in a run, in words: who was paused where, and what others did meanwhile.

The entries of a run are kept by a `Witness`; `told` makes sentences of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from pytest_asyncframe._explore.telling.entries import Entry, Failure, Ran
from pytest_asyncframe._explore.telling.turns import (
    Order,
    Turn,
    contested,
    contested_touches,
    folded,
    told_turns,
    turns,
    without_repeats,
)

_MOST_LINES = 4
"""How many lines of one actor in a row are told."""

_FEW_LINES = 3
"""So many are told also if nobody else has to do with what they touch."""

_WHERE = {"line": "before", "opcode": "inside"}
"""How far an actor has come in the line at which it stands, by the kind of point."""

_MOST_TURNS = 12
"""How many turns are told in all; those in the middle are left out."""


def told(entries: Sequence[Entry], failure: Failure | None = None) -> list[str]:
    """Return the story of a run, a sentence a line; [] if nothing was chosen but the default.

    Args:
        entries: What has happened.
        failure: How the run has failed; None if that is not told.
    """
    _, some = told_turns(turns(entries), "" if failure is None else failure.location)
    if not some:
        return []
    keys = contested(some)
    sentences = [in_words(one, keys) for one in without_repeats(some)]
    return [
        *shortened(sentences, _MOST_TURNS, "... {} turns left out"),
        *([] if failure is None else [ended(failure)]),
    ]


def in_words(one: Turn | Order, keys: frozenset[Hashable]) -> str:
    """Return what a turn or a choice is, as a sentence.

    Args:
        one: It.
        keys: What several actors have touched; see `contested`.
    """
    return _Sentence(keys).of(one)


def ended(failure: Failure) -> str:
    """Return how a run has failed, as a sentence."""
    where = f" at `{failure.source}` ({failure.location})" if failure.source else ""
    return f"it fails{where}: {failure.text}"


def shortened(texts: list[str], most: int, left_out: str) -> list[str]:
    """Return so many texts at the most, with *left_out* for how many in the middle."""
    more = len(texts) - most
    half = most // 2
    return texts if more <= 1 else [*texts[:half], left_out.format(more), *texts[-half:]]


class _Sentence:
    """Makes one sentence.

    Args:
        keys: What several actors have touched.
    """

    def __init__(self, keys: frozenset[Hashable]) -> None:
        self._keys = keys
        # Where the latest line that was told is: the others in that function need no file.
        self._function = ""

    def of(self, one: Turn | Order) -> str:
        """Return what a turn or a choice is in words."""
        if isinstance(one, Order):
            ran = self._lines(one.lines)
            return f"{one}{': ' if ran else ''}{ran}"
        if one.paused is not None:
            return self._pause(one)
        ran = self._lines(one.lines)
        if one.ended:
            begun = "went on to its end" if one.goes_on else "ran to its end"
            how = "" if one.ended == "completed" else f", and {one.ended}"
            return f"{one.who} {begun}{': ' if ran else ''}{ran}{how}"
        return f"{one.who} {'went on' if one.goes_on else 'ran'}{': ' if ran else ''}{ran}"

    def _pause(self, turn: Turn) -> str:
        pause = turn.paused
        assert pause is not None
        said = f"{turn.who} {'went on and ' if turn.goes_on else ''}paused"
        source, location = pause.source, pause.location
        before = list(turn.lines)
        if source:
            before = [line for line in before if line.location != location]
            files = [line for line in turn.lines if _file(line.location) == _file(location)]
            self._function = _function(files[-1]) if files else ""
            said += f" {_WHERE.get(pause.kind, 'at')} `{source}` ({location})"
        elif pause.what == "started":
            said += " before its first line"
        elif pause.what:
            said += f" at {pause.what}"
        elif before:
            stands = self._stands(before)
            before = before[: before.index(stands)]
            said += f" at `{stands.source}` ({stands.location})"
            self._function = _function(stands)
        else:
            return said
        latest = self._latest(before)
        return said if latest is None else f"{said}, after {self._line(latest)}"

    def _stands(self, lines: Sequence[Ran]) -> Ran:
        """Return the line at which somebody stands, in the function that matters."""
        shared = [line for line in lines if contested_touches(line, self._keys)]
        depth = shared[-1].depth if shared else 0
        return next((line for line in reversed(lines) if line.depth <= depth), lines[-1])

    def _latest(self, lines: Sequence[Ran]) -> Ran | None:
        """Return the line before a pause that says most."""
        shared = [line for line in lines if contested_touches(line, self._keys)]
        # What it has set says more than what it has asked.
        setting = [line for line in lines if line.value]
        return next((some[-1] for some in (shared, setting, lines) if some), None)

    def _lines(self, lines: Sequence[Ran]) -> str:
        """Return some lines of one actor, with what they set."""
        counted = folded(lines, self._keys)
        shared = [n for n, (line, _) in enumerate(counted) if contested_touches(line, self._keys)]
        chosen = set(shared[-_MOST_LINES:])
        # What it has set says more than what it has asked.
        others = sorted(
            set(range(len(counted))) - chosen,
            key=lambda n: (_tells(counted[n][0]), n),
            reverse=True,
        )
        chosen.update(others[: max(0, _FEW_LINES - len(chosen))])
        texts = []
        for number in sorted(chosen):
            line, times = counted[number]
            texts.append(self._line(line) + (f" {times} times" if times > 1 else ""))
        left_out = len(shared) > _MOST_LINES or (bool(counted) and 0 not in chosen)
        return "; ".join(["..."] * left_out + texts)

    def _line(self, line: Ran) -> str:
        notes = notes_of(line, self._keys)
        if _function(line) != self._function:
            self._function = _function(line)
            notes.insert(0, line.location)
        noted = f" ({', '.join(notes)})" if notes else ""
        return f"`{line.source}`{noted}"


def _tells(line: Ran) -> int:
    """Return how much a line tells that touches nothing that others have."""
    return 0 if line.is_end else 2 if line.value or line.raised else 1


def notes_of(line: Ran, keys: frozenset[Hashable]) -> list[str]:
    """Return what a line has set, or what it has read of *keys*, and how it has failed."""
    if line.more:
        return []  # they are those of an earlier time
    if line.value:
        return [line.value]
    seen = [
        touch
        for touch in contested_touches(line, keys)
        if touch.seen and (line.raised or not touch.changes)
    ]
    notes = ["its end"] if line.is_end else []
    notes += dict.fromkeys(f"{touch.path} is {touch.seen}" for touch in seen[:2])
    return [*notes, f"raises {line.raised}"] if line.raised else notes


def _function(line: Ran) -> str:
    return f"{_file(line.location)}:{line.function}"


def _file(location: str) -> str:
    return location.rpartition(":")[0]
