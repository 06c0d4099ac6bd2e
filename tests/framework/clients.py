"""Starlette's test client, whichever HTTP library it stands on."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # Starlette would rather have httpx2, and says so when it finds httpx alone.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

__all__ = ["TestClient"]
