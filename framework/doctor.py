"""Checks a Celery configuration: ``python -m framework doctor module:celery_app``.

Its module is `framework.engines.celery.doctor`, and needs the extra ``celery`` of asyncframe.
"""

from __future__ import annotations

from framework.engines.celery.doctor import Finding, examine, main

__all__ = ["Finding", "examine", "main"]
