"""How many tests the suites have."""

from __future__ import annotations

import os

KINDS = 10
"""Test functions in each suite, all parametrised."""

NUMBERS = range(int(os.environ.get("SHOP_TESTS", str(KINDS))) // KINDS)
"""The orders that each function tests."""
