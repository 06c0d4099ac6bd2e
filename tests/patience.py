"""How long a test waits for what comes at once on an idle machine."""

PATIENCE = 60.0
"""Real seconds after which a wait is a failure.

Nothing takes as long; on a machine with a busy loop on each processor much takes ten seconds.
It is half of what pytest-timeout gives a test, so that the failure says what was waited for.
"""
