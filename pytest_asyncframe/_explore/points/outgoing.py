"""Which calls give up the interpreter's lock: of files, sockets, processes and databases.

Other threads really run during such a call, so it is where most races of threads happen. A
call is recognised by what is called, wherever it came from: a module, a variable, or an
object that was made long before.

Relies on: modules of databases having ``apilevel`` (PEP 249).
"""

from __future__ import annotations

import _socket
import io
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any
from weakref import WeakKeyDictionary

_OF_OS = (
    *("open", "read", "write", "fsync", "truncate", "ftruncate", "sendfile"),
    *("replace", "rename", "unlink", "remove", "link", "symlink", "readlink"),
    *("mkdir", "rmdir", "listdir", "scandir", "stat", "lstat", "access", "utime", "chmod"),
    *("system", "waitpid"),
)
_OF_SUBPROCESS = ("Popen", "run", "call", "check_call", "check_output")
_OF_FILES = {
    **{name: name for name in ("read", "read1", "readall", "readinto", "readline", "readlines")},
    **{name: name for name in ("write", "writelines", "flush", "truncate", "close")},
    "__exit__": "close",
}
_OF_SOCKETS = frozenset(
    {
        *("connect", "connect_ex", "accept", "recv", "recv_into", "recvfrom", "recvmsg"),
        *("send", "sendall", "sendto", "sendmsg"),
    }
)
_EXECUTE = frozenset({"execute", "executemany", "executescript", "callproc"})
_FETCH = frozenset({"fetchone", "fetchmany", "fetchall"})
_END = frozenset({"commit", "rollback", "close"})
_OF_DATABASES = _EXECUTE | _FETCH | _END

_FILES = (io.FileIO, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)
_POPEN = ("wait", "communicate")

_FUNCTIONS: dict[object, str] = {
    open: "open",
    # Some names are of one function, or of none on Windows.
    **{getattr(os, name): f"os.{name}" for name in reversed(_OF_OS) if hasattr(os, name)},
    **{getattr(subprocess, name): f"subprocess.{name}" for name in _OF_SUBPROCESS},
    **{getattr(subprocess.Popen, name): f"Popen.{name}" for name in _POPEN},
}
"""What such a function is called, by the function or class."""

_PYTHONS: dict[CodeType, str] = {
    subprocess.Popen.__init__.__code__: "subprocess.Popen",
    **{one.__code__: name for one, name in _FUNCTIONS.items() if isinstance(one, FunctionType)},
}
"""The same by its code, of those that are written in Python."""

_NAMES = frozenset(
    {"open", *_OF_OS, *_OF_SUBPROCESS, *_POPEN, *_OF_FILES, *_OF_SOCKETS, *_OF_DATABASES}
)


def may_call_out(code: CodeType) -> bool:
    """Whether a function names a call that gives up the interpreter's lock."""
    return not _NAMES.isdisjoint(code.co_names)


def is_database(module: object) -> bool:
    """Whether a module belongs to the driver of a database, given its name."""
    return _is_driver(str(module).partition(".")[0])


@cache
def _is_driver(package: str) -> bool:
    module = sys.modules.get(package)
    return all(isinstance(getattr(module, name, None), str) for name in ("apilevel", "paramstyle"))


class Outgoing:
    """Recognises calls in one run."""

    def __init__(self) -> None:
        self._transactions: WeakKeyDictionary[object, _Transaction] = WeakKeyDictionary()

    def named(self, called: object, first: object) -> str:
        """Return the name of a call before which others may run; "" for any other call.

        Args:
            called: What is called: a function, a class, or a method.
            first: Its first argument, which is the object of a method that is not bound.
        """
        # No code of a user is called here: anything may be called, and may be given.
        kind = type(called)
        if kind is BuiltinMethodType:
            owner = called.__self__  # type: ignore[attr-defined]
            if owner is None or type(owner) is ModuleType:
                return _FUNCTIONS.get(called, "")
            return self._of_method(called.__name__, owner, in_c=True)  # type: ignore[attr-defined]
        if kind is MethodDescriptorType:
            return self._of_method(called.__name__, first, in_c=True)  # type: ignore[attr-defined]
        if kind is MethodType:
            called, first = called.__func__, called.__self__  # type: ignore[attr-defined]
            kind = type(called)
        if kind is FunctionType:
            code = called.__code__  # type: ignore[attr-defined]
            return self.of_python(code, lambda: first)
        return _FUNCTIONS.get(called, "") if kind is type else ""

    def of_python(self, code: CodeType, first: Callable[[], object]) -> str:
        """Return the name of a call of a function that is written in Python; see `named`."""
        if code.co_name in _OF_DATABASES:
            return self._of_method(code.co_name, first(), in_c=False)
        return _PYTHONS.get(code, "") if code.co_filename == subprocess.__file__ else ""

    def _of_method(self, name: str, owner: object, *, in_c: bool) -> str:
        kind = type(owner)
        if in_c and name in _OF_FILES and issubclass(kind, _FILES):
            is_shown = owner is sys.stdout or owner is sys.stderr
            return "" if is_shown else _OF_FILES[name]
        if in_c and name in _OF_SOCKETS and issubclass(kind, _socket.socket):
            return name
        if name in _OF_DATABASES and any(is_database(one.__module__) for one in kind.__mro__):
            return name if self._is_free(name, owner) else ""
        return ""

    def _is_free(self, name: str, owner: Any) -> bool:  # Any: a connection or a cursor
        """Whether the caller keeps nothing locked in the database while it is paused.

        Others would wait in the database, unseen, and time passes there.
        """
        connection = owner if hasattr(owner, "commit") else getattr(owner, "connection", None)
        if connection is None:
            return False
        inside = getattr(connection, "in_transaction", None)
        if isinstance(inside, bool):  # of SQLite, which locks a whole file also while it reads
            return not inside and name not in _FETCH
        try:
            transaction = self._transactions.setdefault(connection, _Transaction())
        except TypeError:  # it has no weak references
            return False
        return transaction.is_free_before(name)


class _Transaction:
    """What a connection may have locked, told by the calls so far.

    Whoever changes rows has them locked until the end; a statement that is followed by a
    ``fetch`` has only read.
    """

    def __init__(self) -> None:
        self._asked = False
        self._changed = False

    def is_free_before(self, name: str) -> bool:
        """Take note of a call that comes next; return whether nothing is locked before it."""
        if name in _FETCH:
            self._asked = False
            return False
        self._changed = self._changed or self._asked
        free = not self._changed
        self._asked = name in _EXECUTE
        if name in _END:
            self._changed = False
        return free
