"""Replay lines: a schedule as text, and following it in another process.

A line carries the steps at which a run did something else than `Holds` does: the identity that
was taken, what else was offered, and a checksum of all steps before. So it is short, however long
an actor is held back; and a run that differs is noticed, and never taken for the same schedule.
The text is JSON, compressed, with a checksum of its own, in the URL-safe alphabet of base64.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from pytest_asyncframe._explore.holds import Holds
from pytest_asyncframe._explore.schedule import CALL, EARLY, Location, Step, early
from pytest_asyncframe._turns.choices import Pending

PREFIX = "AF2:"
"""What each line begins with; the digit is the version of its format."""

_OF_ONE_PYTHON = ("line", "opcode")
"""Levels whose steps depend on how Python compiles a function."""

_CHECKSUM = 4
"""Bytes of a line's own checksum."""


_LONGEST = 10_000_000
"""Bytes of the JSON at the most: more than any schedule, and no danger to memory."""


class ReplayLineError(ValueError):
    """Raised for a text that is no replay line of this version, with a message for users."""


class Deviation(NamedTuple):
    """A step at which a run did something else than `Holds` does.

    Attributes:
        number: The number of the step, from 0.
        kind: See `Step.kind`.
        options: See `Step.options`.
        chosen: The index of the option that was taken; 0 lets who was held back go on.
        before: The checksum of all steps before; see `add`.
    """

    number: int
    kind: str
    options: tuple[str, ...]
    chosen: int
    before: int


class ReplayLine(NamedTuple):
    """A schedule, and what else a run of it needs.

    Attributes:
        node: The checksum of the test's node id; see `node_sum`.
        level: The level at which it was found.
        seed: The base seed of the test's runs.
        python: The version of Python that it needs, such as "3.13"; "" for any.
        deviations: The steps at which the schedule says what comes next, in their order.
        edges: Whether the starts and the ends of tasks are points; they are in a line that does
            not say so.
    """

    node: int
    level: str
    seed: int
    python: str
    deviations: tuple[Deviation, ...]
    edges: bool = True


def line_of(
    steps: Sequence[Step], *, node_id: str, level: str, seed: int, edges: bool
) -> ReplayLine:
    """Return the line for a run that took *steps*."""
    total, holds = 0, Holds()
    deviations = []
    for number, step in enumerate(steps):
        if step.chosen != holds.default(step):
            deviations.append(Deviation(number, step.kind, step.options, step.chosen, total))
        holds.took(step, step.chosen)
        total = add(total, step)
    # What a library of Python calls may differ as well.
    bound = level in _OF_ONE_PYTHON or any(step.kind == CALL for step in steps)
    python = _this_python() if bound else ""
    return ReplayLine(node_sum(node_id), level, seed, python, tuple(deviations), edges)


def node_sum(node_id: str) -> int:
    """Return the checksum of a node id, by which a line finds its test among others."""
    return zlib.crc32(node_id.encode())


def add(total: int, step: Step) -> int:
    """Return the checksum of steps with the checksum *total*, followed by *step*."""
    # Without its line, so that somebody may add a comment or a breakpoint.
    what = step.what.key if isinstance(step.what, Location) else step.what
    if step.kind == "await":
        what = ""
    text = f"{step.kind}\0{what}\0{step.preempts:d}{step.chosen}\0" + "\0".join(step.options)
    return zlib.crc32(text.encode(), total)


def _this_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


# -- as text


def encode(line: ReplayLine) -> str:
    """Return *line* as text without spaces."""
    row = line[:-1] if line.edges else line
    packed = zlib.compress(json.dumps(row, separators=(",", ":")).encode(), 9)
    summed = zlib.crc32(packed).to_bytes(_CHECKSUM, "big") + packed
    return PREFIX + _text_of(summed)


def _text_of(summed: bytes) -> str:
    return base64.urlsafe_b64encode(summed).decode().rstrip("=")


def decode(text: str) -> ReplayLine:
    """Return the line that *text* holds, though line breaks, quotes or its option came into it.

    Raises:
        ReplayLineError: If it is no such line, is damaged, or needs another version of Python.
    """
    compact = "".join(text.split()).strip("'\"`.,;")
    before, found, packed = compact.rpartition(PREFIX)
    if not found:
        raise ReplayLineError(_what_else(compact))
    compact = compact.removeprefix(before)
    try:
        line = _unpacked(packed)
    except (ValueError, TypeError, zlib.error, binascii.Error) as error:
        raise ReplayLineError(
            f"{_shortened(compact)!r} is damaged: copy the whole line that the failing test printed"
        ) from error
    if line.python not in ("", _this_python()):
        raise ReplayLineError(
            f"{_shortened(compact)!r} was made by Python {line.python}, and its level "
            f"{line.level!r} has other steps in Python {_this_python()}: replay it there"
        )
    return line


def _what_else(text: str) -> str:
    if text.startswith("AF") and text[2:].partition(":")[0].isdigit():
        return (
            f"{_shortened(text)!r} was made by another version of asyncframe, whose lines begin "
            f"with another number than {PREFIX!r}: replay it with that version"
        )
    return f"{_shortened(text)!r} is no replay line: it must begin with {PREFIX!r}"


def _shortened(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}..."


def _unpacked(text: str) -> ReplayLine:
    summed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _text_of(summed) != text:
        # Python passes over other characters and the last bits of the last one.
        raise ValueError("another text for the same bytes")
    packed = summed[_CHECKSUM:]
    if zlib.crc32(packed).to_bytes(_CHECKSUM, "big") != summed[:_CHECKSUM]:
        raise ValueError("another checksum")
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(packed, _LONGEST)
    if not unpacker.eof:
        raise ValueError("too long")
    node, level, seed, python, rows, *more = json.loads(unpacked)
    (edges,) = more or [True]
    deviations = tuple(
        Deviation(number, kind, tuple(options), chosen, before)
        for number, kind, options, chosen, before in rows
    )
    return ReplayLine(node, level, seed, python, deviations, edges)


# -- following one


class Following:
    """Takes the choices of a line, and no further ones once a run differs from it.

    Args:
        line: The line.

    Attributes:
        difference: Where the run differed first, for users; "" if nowhere so far.
    """

    def __init__(self, line: ReplayLine) -> None:
        self._line = line
        self._deviation_at = {one.number: one for one in line.deviations}.get
        self._holds = Holds()
        self._total = 0
        self._length = 0
        self.difference: str = ""

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take at step *number*; see `Strategy`."""
        deviation = self._deviation_at(number)
        chosen = self._holds.default(step)
        if deviation is not None and not self.difference:
            self.difference = self._compared(deviation, step)
            chosen = chosen if self.difference else deviation.chosen
        self._holds.took(step, chosen)
        self._length = number + 1
        self._total = add(self._total, step._replace(chosen=chosen))
        return chosen

    @property
    def takes_time(self) -> bool:
        """Whether the line lets time pass; see `Hasty`."""
        return any(one.kind == EARLY for one in self._line.deviations)

    def pass_time(
        self, number: int, moment: int, pending: Sequence[Pending], served: Sequence[str]
    ) -> int | None:
        """Return the index of the timeout of the line; see `Hasty`."""
        deviation = self._deviation_at(number)
        if deviation is None or deviation.kind != EARLY or self.difference:
            return None
        wanted = deviation.options[deviation.chosen]
        for index, one in enumerate(pending):
            if early(one.identity, moment) == wanted:
                self._length = number + 1
                step = Step(EARLY, "", deviation.options, preempts=False, chosen=deviation.chosen)
                self._holds.took(step, step.chosen)
                self._total = add(self._total, step)
                return index
        return None

    def _compared(self, deviation: Deviation, step: Step) -> str:
        expected = _named(deviation.kind, deviation.options)
        found = _named(step.kind, step.options)
        if expected != found:
            return f"step {deviation.number}, expected {expected}, found {found}"
        if self._total != deviation.before:
            return f"the steps before step {deviation.number} are others than in the line"
        return ""

    def missing(self) -> str:
        """Return where the run differed first, if it has no further steps; "" if nowhere."""
        missed = [one for one in self._line.deviations if one.number >= self._length]
        if missed and not self.difference:
            expected = _named(missed[0].kind, missed[0].options)
            return f"step {missed[0].number}, expected {expected}, found the end of the run"
        return self.difference


def _named(kind: str, options: Sequence[Any]) -> str:  # Any: JSON that another process wrote
    return f"{kind} {', '.join(map(str, options))}"
