"""Task ids: 128 random bits, which nobody can guess and no two processes share."""

from __future__ import annotations

import os


def random_id() -> str:
    """Return 32 hexadecimal digits from the operating system's generator."""
    return os.urandom(16).hex()
