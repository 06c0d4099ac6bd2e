"""The command line, ``asyncframe`` or ``python -m framework``: looks at tasks from outside.

It reads the store that the processes of an app share. It is no process of the app: it takes
nothing over, and ends nothing.
"""

from __future__ import annotations

from framework._records import exports
from framework.cli._program import main

__all__ = ["main"]

exports.pin(globals())
