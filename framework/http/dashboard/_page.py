"""The page itself: one file with its styles and its script, and the headers that guard it.

The names and colours of statuses are put into it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Final

from framework._records.statuses import TRAITS

_FILE: Final = Path(__file__).with_name("page.html")

_COMMENT: Final = re.compile(r"^ *// .*\n", re.MULTILINE)
"""A line that browsers need not load."""


@functools.cache
def page() -> tuple[bytes, dict[str, str]]:
    """Return the page in UTF-8, and the headers of each response that has it.

    Its file is read once. The header ``ETag`` changes whenever the page does.
    """
    text = _COMMENT.sub("", _FILE.read_text(encoding="utf-8")).replace(
        "const STATUSES = {};",
        f"const STATUSES = {json.dumps(_statuses(), separators=(',', ':'))};",
    )
    hashes = {tag: _hash_of(tag, text) for tag in ("script", "style")}
    body = text.encode()
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _POLICY.format(**hashes),
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
    return body, headers


def _statuses() -> dict[str, dict[str, object]]:
    """Return what the page shows of each status, in the order of its tabs."""
    shown = ("label", "group", "is_final", "failed")
    return {
        status.value: {
            **{name: getattr(one, name) for name in shown},
            "tone": one.looks.tone,
            "sign": one.looks.sign,
        }
        for status, one in TRAITS.items()
    }


_POLICY: Final = (
    "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Allows the page's own styles and script, and requests to its app."""


def _hash_of(tag: str, text: str) -> str:
    (found,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digest = hashlib.sha256(found.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
