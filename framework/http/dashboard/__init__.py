"""The dashboard: one page that shows tasks while they run, and the facts that it asks for."""

from __future__ import annotations

from framework.http.dashboard._routes import add_dashboard

__all__ = ["add_dashboard"]
