"""The classes of httpx as they were before a test patched them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from contextlib import suppress
from typing import Any

_NAMES = ("httpx", "httpx2")
"""The older and the newer name of the library."""


def note() -> None:
    """Keep the present classes of httpx if it is loaded; called before each test."""
    if "httpx" in sys.modules or ("httpx2" in sys.modules and not _has_the_older()):
        # Of a version that has none of them, only a test that asks for a client need hear.
        with suppress(ImportError):
            client_classes()
            blocking_class()


@functools.cache
def _has_the_older() -> bool:
    # Starlette loads the newer one. Where both are installed, only the test loads the older one.
    return importlib.util.find_spec("httpx") is not None


@functools.cache  # once, or the patch of a later test would be kept as the original
def client_classes() -> tuple[Any, Any]:
    """Return the classes ``AsyncClient`` and ``ASGITransport``.

    Later patches of httpx, for requests that the app itself sends, do not affect them.

    Raises:
        ImportError: If httpx is not installed, or is of a version that has no such classes.
    """
    name = httpx_name()
    return (
        _copy(_original(name, "_client", "AsyncClient")),
        _original(name, "_transports.asgi", "ASGITransport"),
    )


@functools.cache  # as above
def blocking_class() -> Any:
    """Return the class ``Client``; see `client_classes`."""
    return _copy(_original(httpx_name(), "_client", "Client"))


@functools.cache  # as above
def async_classes() -> tuple[Any, Any]:
    """Return ``AsyncClient`` and its transport for sockets; see `client_classes`."""
    return client_classes()[0], _original(httpx_name(), "_transports.default", "AsyncHTTPTransport")


@functools.cache  # as above
def sync_classes(test_client: Any) -> tuple[Any, Any]:
    """Return the class ``Client`` that ``TestClient`` is derived from, and its transport."""
    package = test_client.__base__.__module__.partition(".")[0]
    return (
        _copy(_original(package, "_client", "Client")),
        _original(package, "_transports.default", "HTTPTransport"),
    )


def _original(package: str, module: str, name: str) -> Any:
    """Return a class from the module that defines it, since a test may patch the public name."""
    public: Any = getattr(importlib.import_module(package), name, None)
    found = getattr(sys.modules.get(f"{package}.{module}"), name, public)
    if found is None:
        raise ImportError(
            f"asyncframe.client() needs {package}.{name}, which the installed {package} does not "
            "have: install a version below 1"
        )
    return found


def httpx_name() -> str:
    """Return the name under which httpx is installed.

    Raises:
        ImportError: If it is not installed.
    """
    for name in _NAMES:
        if importlib.util.find_spec(name) is not None:
            return name
    raise ImportError("asyncframe.client() needs httpx: install the extra 'pytest' of asyncframe")


def _copy(cls: type[Any]) -> type[Any]:
    """Return a subclass with all methods of *cls* as they are now."""
    kinds = (types.FunctionType, property, classmethod, staticmethod)
    methods = {
        name: value
        for base in reversed(cls.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, kinds)
    }
    return type(cls.__name__, (cls,), methods)
