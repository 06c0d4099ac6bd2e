"""Searching: letters match in upper and lower case, everything else as it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from framework._records.pages import finder, variants


def test_what_is_found() -> None:
    """A part of a text is found, in upper or lower case, and no character is a wildcard.

    ASCII letters do not match signs that only look like them.
    """
    found = [
        ("MAIL", "send_mail"),
        ("mail", "SEND_MAIL"),
        ("über", "Die ÜBERSICHT"),
        ("Ünd", "und ünd"),
        ("50%", "at 50% now"),
        ("a_b", "xa_bx"),
        ("[x]", "the [x]"),
        ("a.b", "A.B"),
        ("a^b", "a^b"),
        ("a\nb", "A\nB"),
        ("日本", "東京、日本"),
        ("", "anything"),
    ]
    not_found = [
        ("50%", "50 x"),
        ("a_b", "axb"),
        ("[ab]", "a"),
        ("a.b", "axb"),
        ("k", "\u212a"),
        ("mail", ""),
    ]
    assert [(search, text) for search, text in found if not finder(search)(text)] == []
    assert [(search, text) for search, text in not_found if finder(search)(text)] == []


TEXTS = st.text(st.sampled_from("abAB_%\u212a\u00fc\u00dc\u00df\u03c3\u03c2\u03a3"), max_size=8)


@given(TEXTS, TEXTS)
def test_what_the_variants_say(search: str, text: str) -> None:
    """A text is found if some part of it has one of the variants at each place."""
    wanted = variants(search)
    places = range(len(text) - len(wanted) + 1)
    found = any(
        all(one in some for one, some in zip(text[at:], wanted, strict=False)) for at in places
    )
    assert finder(search)(text) == found
