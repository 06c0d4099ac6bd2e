"""Runs that nobody watches: without what they print, log or stop for.

Two hundred runs would print all of it two hundred times. With pytest's capturing, a run prints
nothing anyhow.
"""

from __future__ import annotations

import logging
import os
import pdb  # noqa: T100  # replaced, not used
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def hushed(config: pytest.Config) -> Iterator[None]:
    """Drop inside the block what pytest would show at once, and pass over breakpoints."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "breakpointhook", _pass_over)
        patch.setattr(pdb, "set_trace", _pass_over)
        plugin = config.pluginmanager.get_plugin("logging-plugin")
        handler = getattr(plugin, "log_cli_handler", None)
        if isinstance(handler, logging.Handler):
            handler.addFilter(_drop)
            stack.callback(handler.removeFilter, _drop)
        if config.getoption("capture", "no") == "no":
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def _pass_over(*_: Any, **__: Any) -> None:
    """Replace a breakpoint."""


def _drop(_: logging.LogRecord) -> bool:
    return False
