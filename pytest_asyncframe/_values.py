"""Values of a user's types as one short line of text, whatever their ``repr()`` does."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any  # values may be of any type

_WIDTH = 80
"""Number of characters that are shown of a value."""


class _Repr(reprlib.Repr):
    """Shortens long values."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _WIDTH

    def repr_instance(self, x: Any, level: int) -> str:
        """Show a value that is not of a built-in type."""
        return safely(repr, x)

    def repr_bytes(self, x: bytes, level: int) -> str:
        """Show the beginning."""
        return repr(x[:_WIDTH])


def shown(value: Any) -> str:
    """Return the ``repr()`` of a value, shortened."""
    return safely(_Repr().repr, value)


def error_text(error: BaseException) -> str:
    """Return the type and the text of an error."""
    name, text = type(error).__name__, safely(str, error)
    return plain(f"{name}: {text}" if text else name)


def safely(show: Callable[[Any], str], value: Any) -> str:
    """Return what *show*, which is ``str`` or ``repr``, makes of a value."""
    try:
        return plain(show(value))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's method may raise anything
        word = "str" if show is str else "repr"
        return f"<{type(value).__name__}, whose {word}() raised {type(error).__name__}>"


def plain(text: str) -> str:
    """Return a text as one short line of printable characters."""
    # Cut first, since the text of a value may be of any length.
    text = " ".join(text[: _WIDTH * 8].split())
    text = "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
