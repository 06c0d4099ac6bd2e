"""What happened in a run, as a page with a lane for each actor; time goes down.

Guarantees: one file that needs nothing else, and texts of a user's code are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from pytest_asyncframe._explore.telling.story import Deviation, Entry, Turn, told, turns

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --line: #d9dee7;
  --paper: #fff; --box: #f6f8fb; --accent: #b4490f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3;
  --line: #343b47; --paper: #14181f; --box: #1c222b; --accent: #f59e6c; } }
body { margin: 2rem auto; padding: 0 1.5rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.25rem; font-weight: 600; overflow-wrap: anywhere; }
p, ol { color: var(--soft); } ol li { color: var(--ink); margin: .3rem 0; }
code { font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.lanes { display: grid; gap: .5rem 1rem; margin: 2rem 0; overflow-x: auto; }
.lanes h2 { grid-row: 1; margin: 0; font-size: .9rem; font-weight: 600;
  border-bottom: 2px solid var(--line); padding-bottom: .4rem; }
.turn { background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  padding: .5rem .7rem; }
.turn div { display: flex; gap: .8rem; justify-content: space-between; }
.turn .set { color: var(--soft); text-align: right; }
.turn p { margin: .4rem 0 0; font-size: .85rem; }
.paused { border-color: var(--accent); } .paused p { color: var(--accent); }
.order { grid-column: 1 / -1; color: var(--accent); font-size: .85rem; }
"""

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
    columns = f"grid-template-columns:repeat({max(1, len(lanes))},minmax(15rem,1fr))"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<main><h1>{escape(title)}</h1><p>{escape(proof)}</p><ol>{sentences}</ol>"
        f'<div class="lanes" style="{columns}">{heads}{boxes}</div></main></html>\n'
    )


def _lanes(all_turns: Iterable[Turn | Deviation]) -> dict[str, int]:
    """Return the column of each actor, from 1, in the order in which they first ran."""
    found: dict[str, int] = {}
    for one in all_turns:
        if isinstance(one, Turn):
            found.setdefault(one.who, len(found) + 1)
    return found


def _boxes(all_turns: Iterable[Turn | Deviation], lanes: dict[str, int]) -> Iterator[str]:
    for row, one in enumerate(all_turns, 2):
        if isinstance(one, Deviation):
            text = f"{escape(one.taken)} came before {escape(one.default)}"
            yield f'<div class="order" style="grid-row:{row}">{text}</div>'
        else:
            location = f"grid-row:{row};grid-column:{lanes[one.who]}"
            yield f'<div class="{_kind(one)}" style="{location}">{_turn(one)}</div>'


def _kind(turn: Turn) -> str:
    return "turn" if turn.paused is None else "turn paused"


def _turn(turn: Turn) -> str:
    lines = [
        f"<div><code>{escape(line.source)}</code>"
        f'<code class="set">{escape(line.value or line.location)}</code></div>'
        for line in turn.lines
    ]
    left_out = len(lines) - _MOST_LINES
    if left_out > 1:
        half = _MOST_LINES // 2
        lines[half:-half] = [f"<div>... {left_out} lines</div>"]
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
