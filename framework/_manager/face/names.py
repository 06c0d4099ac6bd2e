"""Names: those by which tasks are looked for, which may leave out the module."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Final

from framework._records import checks


class SeveralNamesError(ValueError):
    """The names of several functions end with what is looked for."""


def full_name(given: str, known: Collection[str]) -> str | None:
    """Return the name that is *given*, or else the one that ends with it after a dot.

    Args:
        given: The name to look for.
        known: All names that there are.

    Returns:
        One of *known*; None if there is none.

    Raises:
        SeveralNamesError: If several end with it.
    """
    if given in known:
        return given
    found = sorted(one for one in known if is_end(given, one))
    if len(found) > 1:
        raise SeveralNamesError(
            f"name must say which of several is meant, not {checks.show(given)}: "
            f"{_listed(found[:_SHOWN])}"
        )
    return found[0] if found else None


def is_end(given: str, name: str) -> bool:
    """Return whether a name is *given*, or ends with it after a dot."""
    return name == given or name.endswith(f".{given}")


def unknown_name(given: str, known: Iterable[str]) -> str:
    """Return the message that no function or task has a name, with those that are near."""
    # The module is long, and mostly not what somebody types.
    by_end: dict[str, list[str]] = {}
    for one in sorted(known):
        for end in {one, one.rpartition(".")[2]}:
            by_end.setdefault(end, []).append(one)
    ends = [given, given.rpartition(".")[2]]
    close = [end for one in ends for end in difflib.get_close_matches(one, by_end, _SHOWN)]
    near = list(dict.fromkeys(one for end in close for one in by_end[end]))[:_SHOWN]
    hint = f"; near are {_listed(near)}" if near else ""
    return f"name must be that of a function or task, not {checks.show(given)}{hint}"


_SHOWN: Final = 5
"""How many names a message has at most."""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(checks.show, names))
