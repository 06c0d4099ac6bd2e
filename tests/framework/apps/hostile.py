"""Texts that a page should only show; in a module of their own, since tests and an app use them."""

from __future__ import annotations

HOSTILE = {
    "script": "<script>document.title = 'broken into'</script><img src=x onerror=alert(1)>",
    "lines": "one\ntwo\r\n\x1b[31mred\x1b[0m \u202eright to left",
    "long": "x" * 1_000_000,
}
