"""Where pictures of failing runs are kept: in a folder of pytest's cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

_OTHER = re.compile(r"[^\w.-]+")
_LONGEST = 120


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
