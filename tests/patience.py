"""Real time in tests: how long one waits, and an interval that ends in none of them."""

PATIENCE = 60.0
"""Real seconds after which a wait is a failure.

Nothing takes as long; on a machine with a busy loop on each processor much takes ten seconds.
It is half of what pytest-timeout gives a test, so that the failure says what was waited for.
"""

NEVER = 1e9
"""Seconds of an interval whose next due time no test sees.

Processes that share a schedule count its due times from the epoch: a test that runs as an hour
begins would see one of every hour.
"""
