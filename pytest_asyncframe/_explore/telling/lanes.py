"""What happened in a run, as a page with a lane for each actor; time goes down.

Guarantees: one file that needs nothing else, and texts of a user's code are escaped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Final

import pytest

from pytest_asyncframe._explore.telling.entries import Entry
from pytest_asyncframe._explore.telling.story import shortened, told
from pytest_asyncframe._explore.telling.turns import Order, Turn, turns

_PAGE: Final = Path(__file__).with_name("lanes.html")

_OTHER = re.compile(r"[^\w.-]+")

_LONGEST = 120
"""Characters of the name of its file."""

_MOST_LINES = 12
"""How many lines of a turn are shown: the first and the last ones."""


def picture(entries: Sequence[Entry], title: str, proof: str) -> str:
    """Return a page of HTML.

    Args:
        entries: What has happened in the run.
        title: The name of the test.
        proof: How the run was found, a sentence.
    """
    all_turns = turns(entries)
    lanes = _lanes(all_turns)
    sentences = "".join(f"<li>{_marked(sentence)}</li>" for sentence in told(entries))
    heads = "".join(
        f'<h2 style="grid-column:{column}">{escape(who)}</h2>' for who, column in lanes.items()
    )
    boxes = "".join(_boxes(all_turns, lanes))
    return Template(_PAGE.read_text("utf-8")).substitute(
        title=escape(title),
        proof=escape(proof),
        sentences=sentences,
        columns=max(1, len(lanes)),
        heads=heads,
        boxes=boxes,
    )


def _lanes(all_turns: Iterable[Turn | Order]) -> dict[str, int]:
    """Return the column of each actor, from 1, in the order in which they first ran."""
    found: dict[str, int] = {}
    for one in all_turns:
        if isinstance(one, Turn):
            found.setdefault(one.who, len(found) + 1)
    return found


def _boxes(all_turns: Iterable[Turn | Order], lanes: dict[str, int]) -> Iterator[str]:
    for row, one in enumerate(all_turns, 2):
        if isinstance(one, Order):
            text = f"{escape(one.taken)} came before {escape(one.default)}"
            yield f'<div class="order" style="grid-row:{row}">{text}</div>'
        else:
            cell = f"grid-row:{row};grid-column:{lanes[one.who]}"
            kind = "turn" if one.paused is None else "turn paused"
            yield f'<div class="{kind}" style="{cell}">{_turn(one)}</div>'


def _turn(turn: Turn) -> str:
    lines = [
        f"<div><code>{escape(line.source)}</code>"
        f'<code class="set">{escape(line.value or line.location)}</code></div>'
        for line in turn.lines
    ]
    lines = shortened(lines, _MOST_LINES, "<div>... {} lines</div>")
    if turn.paused is not None:
        where = turn.paused.source or turn.paused.what
        lines.append(f"<p>paused {f'at <code>{escape(where)}</code>' if where else ''}</p>")
    elif turn.ended:
        lines.append(f"<p>{escape(turn.ended)}</p>")
    return "".join(lines)


def _marked(sentence: str) -> str:
    """Return a sentence whose code, in backquotes, is marked as such."""
    parts = escape(sentence).split("`")
    return "".join(f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(parts))


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
