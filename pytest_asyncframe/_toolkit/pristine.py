"""The classes of httpx as they were before a test has replaced anything in them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from typing import Any

_NAMES = ("httpx", "httpx2")
"""The same library under its older name and its newer one."""


def note() -> None:
    """Note what httpx is now, if it is loaded: before a test begins."""
    if "httpx" in sys.modules or ("httpx2" in sys.modules and not _has_the_older()):
        client_classes()


@functools.cache
def _has_the_older() -> bool:
    # Starlette loads the newer one: then nobody but the test loads the older one.
    return importlib.util.find_spec("httpx") is not None


@functools.cache  # once, or a later test's patch would be taken for the original
def client_classes() -> tuple[Any, Any]:
    """Return the classes of the async client and of its transport for apps.

    What a test then replaces in httpx, for the sake of the app's own requests, does not
    reach them.

    Raises:
        ImportError: If httpx is not installed.
    """
    name = httpx_name()
    return (
        _copy(_original(name, "_client", "AsyncClient")),
        _original(name, "_transports.asgi", "ASGITransport"),
    )


def _original(package: str, module: str, name: str) -> Any:
    """Return a class from where it is defined: a test may have replaced the public one."""
    public: Any = getattr(importlib.import_module(package), name)
    defining = sys.modules.get(f"{package}.{module}")
    return getattr(defining, name, public)


def httpx_name() -> str:
    """Return under which name httpx is installed.

    Raises:
        ImportError: If it is not.
    """
    for name in _NAMES:
        if importlib.util.find_spec(name) is not None:
            return name
    raise ImportError("asyncframe.client() needs httpx: pip install 'asyncframe[pytest]'")


def _copy(cls: type[Any]) -> type[Any]:
    """Return a subclass that has all methods of *cls* as they are now."""
    kinds = (types.FunctionType, property, classmethod, staticmethod)
    methods = {
        name: value
        for base in reversed(cls.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, kinds)
    }
    return type(cls.__name__, (cls,), methods)
