"""A Celery app without an engine, as one that was there before asyncframe."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("bare", broker=os.environ["ASYNCFRAME_TEST_REDIS"])
