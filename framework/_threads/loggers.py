"""Loggers: a line of the log ends nothing, whatever its handlers do."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that prints what a handler, filter or formatter raises, and goes on.

    The framework's threads and calls on the event loop log through it: an error there would end
    them, and with them whatever they were to do next. It is printed to ``sys.stderr`` unless
    ``logging.raiseExceptions`` is false, as `logging.Handler.handleError` does. Any thread.

    Args:
        name: Name of the logger.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(
        self,
        level: int,
        msg: object,
        *args: object,
        stacklevel: int = 1,
        extra: Mapping[str, object] | None = None,
        **kwargs: Any,  # logging's own
    ) -> None:
        """Log as `logging.Logger.log`, and raise no `Exception`."""
        if not self.isEnabledFor(level):
            return
        try:
            self.logger.log(level, msg, *args, stacklevel=stacklevel + 1, extra=extra, **kwargs)
        except Exception:
            # There may be no stderr, or a closed one.
            with suppress(Exception):
                if logging.raiseExceptions and sys.stderr is not None:
                    # At once, so that those of several threads do not mix.
                    sys.stderr.write(traceback.format_exc())
