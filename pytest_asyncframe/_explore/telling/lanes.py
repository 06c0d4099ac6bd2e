"""What happened in a run, as a page with a lane for each actor; time goes down.

Guarantees: one file that needs nothing else, and texts of a user's code are escaped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Final

import pytest

from pytest_asyncframe._explore.telling.entries import Entry, Failure, Ran
from pytest_asyncframe._explore.telling.story import ended, in_words, notes_of, shortened, told
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

_PAGE: Final = Path(__file__).with_name("lanes.html")

_OTHER = re.compile(r"[^\w.-]+")

_BREAKS = re.compile(r"(?<=[.,(\[{/])(?=\w)")
"""Where a line of code may be broken, besides at its spaces."""

_LONG_NAME = re.compile(r"\w{25,}")
"""What is broken at its underscores too, or a lane would be wider than a fifth of the page."""

_LONGEST = 120
"""Characters of the name of its file."""

_MOST_LINES = 12
"""How many lines of a turn are shown: the first and the last ones."""

_MOST_TURNS = 400
"""How many turns are shown in all: the first and the last ones."""


def picture(
    entries: Sequence[Entry], title: str, proof: str, failure: Failure | None = None
) -> str:
    """Return a page of HTML.

    Args:
        entries: What has happened in the run.
        title: The name of the test.
        proof: How the run was found, a sentence.
        failure: How the run has failed; None if that is not shown.
    """
    everything = turns(entries)
    _, some = told_turns(everything, "" if failure is None else failure.location)
    keys = contested(some)
    last = [] if failure is None else [ended(failure)]
    sentences = "".join(f"<li>{_marked(sentence)}</li>" for sentence in told(entries, failure))
    shown = _lanes(everything, keys, last)
    if some:
        count = f"{len(everything)} turns, with the set-up of the test"
        shown = f"<details><summary>Everything that ran: {count}</summary>{shown}</details>"
    return Template(_PAGE.read_text("utf-8")).substitute(
        title=escape(title),
        proof=escape(proof),
        sentences=sentences,
        told=_lanes(without_repeats(some), keys, last) if some else "",
        everything=shown,
    )


def _lanes(some: Sequence[Turn | Order], keys: frozenset[Hashable], last: Iterable[str]) -> str:
    """Return a lane for each actor, in the order in which they first ran."""
    lanes: dict[str, int] = {}
    files: dict[str, str] = {}
    for one in some:
        if isinstance(one, Turn):
            lanes.setdefault(one.who, len(lanes) + 1)
            for line in one.lines[:1]:
                files.setdefault(one.who, _file(line))
    heads = "".join(
        f'<h2 style="grid-column:{column}">{escape(who)}'
        f"<span>{escape(files.get(who, ''))}</span></h2>"
        for who, column in lanes.items()
    )
    boxes = shortened(
        list(_boxes(some, lanes, files, keys)),
        _MOST_TURNS,
        '<div class="order">... {} turns left out</div>',
    )
    ends = "".join(f'<div class="order">{_marked(text)}</div>' for text in last)
    columns = max(1, len(lanes))
    style = f"grid-template-columns:repeat({columns},minmax(min-content,1fr))"
    return f'<div class="lanes" style="{style}">{heads}{"".join(boxes)}{ends}</div>'


def _boxes(
    some: Iterable[Turn | Order],
    lanes: dict[str, int],
    files: dict[str, str],
    keys: frozenset[Hashable],
) -> Iterator[str]:
    for row, one in enumerate(some, 2):
        if isinstance(one, Order):
            text = _marked(in_words(one, keys))
            yield f'<div class="order" style="grid-row:{row}">{text}</div>'
        else:
            cell = f"grid-row:{row};grid-column:{lanes[one.who]}"
            kind = "turn" if one.paused is None else "turn paused"
            inside = _turn(one, files.get(one.who, ""), keys)
            yield f'<div class="{kind}" style="{cell}">{inside}</div>'


def _turn(turn: Turn, file: str, keys: frozenset[Hashable]) -> str:
    """Return what is in the box of a turn.

    Args:
        turn: The turn.
        file: The file that the head of its lane names.
        keys: What several actors have touched.
    """
    rows = []
    for line, times in folded(turn.lines, keys):
        if _file(line) != file:
            file = _file(line)
            rows.append(f'<span class="file">{escape(file)}</span>')
        rows.append(_row(line, times, keys))
    rows = shortened(rows, _MOST_LINES, "<p>... {} lines</p>")
    if turn.paused is not None:
        where = turn.paused.source
        rows.append(f"<p>paused {f'at {_code(where)}' if where else ''}</p>")
    elif turn.ended:
        rows.append(f"<p>{escape(turn.ended)}</p>")
    return "".join(rows)


def _row(line: Ran, times: int, keys: frozenset[Hashable]) -> str:
    shared = " shared" if contested_touches(line, keys) else ""
    number = line.location.rpartition(":")[2]
    notes = [*notes_of(line, keys), *([f"{times} times"] if times > 1 else [])]
    below = "".join(_code(note, "set") for note in notes)
    return f'<div class="row{shared}"><b>{number}</b>{_code(line.source)}{below}</div>'


def _code(text: str, kind: str = "") -> str:
    """Return code that is broken between its words, and never in the middle of one."""
    parts = "<wbr>".join(escape(part) for part in _BREAKS.split(text))
    parts = _LONG_NAME.sub(lambda name: name[0].replace("_", "_<wbr>"), parts)
    begin = f'<code class="{kind}">' if kind else "<code>"
    return f"{begin}{parts}</code>"


def _file(line: Ran) -> str:
    return line.location.rpartition(":")[0]


def _marked(sentence: str) -> str:
    """Return a sentence whose code, in backquotes, is marked as such."""
    parts = sentence.split("`")
    return "".join(_code(part) if odd % 2 else escape(part) for odd, part in enumerate(parts))


def kept(item: pytest.Item, page: str) -> Iterator[str]:
    """Keep the picture of a test, in place of an earlier one.

    Yields:
        A line that says where it is; none if pytest runs without its cache, or cannot write.
    """
    cache = getattr(item.config, "cache", None)
    if cache is None:
        return
    name = _OTHER.sub("-", item.nodeid)[-_LONGEST:].strip("-")
    try:
        file = cache.mkdir("asyncframe") / f"{name}.html"
        file.write_text(page, encoding="utf-8")
    except OSError:
        return
    yield f"picture: {os.path.relpath(file, item.config.invocation_params.dir)}"
