"""Shows the packages a system without what only Linux has: ``ASYNCFRAME_AS`` is windows or macos.

Python imports this module when it starts if its folder is on ``PYTHONPATH``, so that the processes
that a test starts are under it too. Tests and other libraries see the system as it is: only what
`framework` and `pytest_asyncframe` import lacks the names, and says another platform. Nobody sees
``/proc``, and event loops take no signals. ``ASYNCFRAME_ALSO`` names further packages that see the
system as these do.

It knows nothing of files that cannot be removed while they are open, of clocks with steps of 16 ms,
and of what Windows does to a process instead of sending it a signal.
"""

from __future__ import annotations

import asyncio
import builtins
import importlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, Final, NoReturn

PACKAGES: Final = ("framework", "pytest_asyncframe", *os.environ.get("ASYNCFRAME_ALSO", "").split())
"""Whose imports are answered otherwise."""

_LINUX: Final = {
    "os": (
        *("sched_getaffinity", "sched_setaffinity", "pidfd_open", "memfd_create", "eventfd"),
        *("posix_fadvise", "posix_fallocate", "getrandom", "splice", "copy_file_range", "setns"),
        *("unshare", "O_PATH", "O_TMPFILE", "O_DIRECT", "P_PIDFD", "ST_NOEXEC"),
    ),
    "signal": ("SIGPWR", "SIGSTKFLT", "SIGPOLL", "SIGRTMIN", "SIGRTMAX", "sigtimedwait"),
    "time": ("CLOCK_BOOTTIME", "CLOCK_TAI"),
    "socket": ("SO_BINDTODEVICE", "SO_INCOMING_CPU", "SO_PEERCRED", "AF_NETLINK", "AF_VSOCK"),
    "select": ("epoll",),
    "selectors": ("EpollSelector",),
}
"""What only Linux has, by module."""

_POSIX: Final = {
    "os": (
        *("fork", "forkpty", "posix_spawn", "posix_spawnp", "register_at_fork", "wait", "wait3"),
        *("wait4", "waitid", "WNOHANG", "WSTOPPED", "WIFEXITED", "WIFSIGNALED", "WEXITSTATUS"),
        *("P_PID", "P_ALL", "killpg", "setsid", "getsid", "setpgid", "getpgid", "getpgrp"),
        *("getuid", "geteuid", "getgid", "getegid", "getgroups", "setuid", "setgid", "seteuid"),
        *("chown", "fchown", "lchown", "fchmod", "chroot", "fchdir", "mkfifo", "mknod", "nice"),
        *("statvfs", "fstatvfs", "getloadavg", "uname", "sysconf", "confstr", "getpriority"),
        *("pipe2", "pread", "pwrite", "preadv", "pwritev", "readv", "writev", "sendfile"),
        *("openpty", "ttyname", "fdatasync", "sync", "lockf", "sched_yield", "set_blocking"),
        *("O_CLOEXEC", "O_NONBLOCK", "O_DIRECTORY", "O_NOFOLLOW", "O_SYNC", "getxattr"),
    ),
    "signal": (
        *("SIGKILL", "SIGHUP", "SIGQUIT", "SIGSTOP", "SIGCONT", "SIGTSTP", "SIGUSR1", "SIGUSR2"),
        *("SIGALRM", "SIGCHLD", "SIGPIPE", "SIGWINCH", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGBUS"),
        *("alarm", "setitimer", "getitimer", "ITIMER_REAL", "pause", "pthread_kill", "sigwait"),
        *("pthread_sigmask", "sigpending", "sigwaitinfo", "siginterrupt", "SIG_BLOCK"),
    ),
    "time": (
        *("clock_gettime", "clock_gettime_ns", "clock_getres", "clock_settime", "tzset"),
        *("CLOCK_MONOTONIC", "CLOCK_REALTIME", "CLOCK_THREAD_CPUTIME_ID"),
    ),
    "socket": ("AF_UNIX", "SO_REUSEPORT", "sendmsg", "send_fds", "recv_fds", "MSG_DONTWAIT"),
    "select": ("poll", "kqueue"),
    "selectors": ("PollSelector", "KqueueSelector"),
    "asyncio": ("open_unix_connection", "start_unix_server", "SafeChildWatcher"),
}
"""What Linux and macOS have, and Windows lacks."""

_MODULES: Final = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline")
"""Modules that Windows lacks."""

MISSING: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "macos": _LINUX,
    "windows": {
        name: (*_LINUX.get(name, ()), *_POSIX.get(name, ())) for name in {**_LINUX, **_POSIX}
    },
}
"""The names that a system lacks, by module."""

_FOUND: Final[Mapping[str, Mapping[str, Mapping[str, object]]]] = {
    "macos": {"sys": {"platform": "darwin"}},
    "windows": {
        "sys": {"platform": "win32"},
        "os": {"name": "nt"},
        "signal": {"SIGBREAK": signal.SIGUSR2, "CTRL_C_EVENT": 0, "CTRL_BREAK_EVENT": 1},
    },
}
"""What a system has instead, by module."""


class Lacking(ModuleType):
    """A module without some of its names; what is set in it is set in the module itself.

    Args:
        real: The module.
        missing: The names.
        found: Names with other values.
    """

    def __init__(
        self, real: ModuleType, missing: Sequence[str], found: Mapping[str, object]
    ) -> None:
        super().__init__(real.__name__)
        for name, value in {**found, "_real": real, "_missing": frozenset(missing)}.items():
            super().__setattr__(name, value)

    @property
    def __dict__(self) -> dict[str, object]:  # type: ignore[override]  # where pytest looks
        found: dict[str, object] = vars(self._real)
        return found

    def __getattr__(self, name: str) -> Any:  # Any: what the module has
        if name in self._missing:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} there")
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._real, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._real, name)

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._real) if name not in self._missing]


for _function in vars(Lacking).values():
    if isinstance(_function, FunctionType):
        # A search for races looks at each line of the code under test, but not of the library.
        _function.__code__ = _function.__code__.replace(co_filename=os.__file__)


def _refuse(*_: object) -> NoReturn:
    raise NotImplementedError("as on the event loop that Windows has")


def _hide(path: object) -> None:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if isinstance(path, str) and (path == "/proc" or path.startswith("/proc/")):
        raise FileNotFoundError(2, "No such file or directory", path)


def _hide_proc() -> None:
    """Let nobody see ``/proc``."""

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir"):
            _hide(arguments[0])

    def hiding(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: object, *arguments: Any, **options: Any) -> Any:
            _hide(path if isinstance(path, int) else os.fspath(path))  # type: ignore[call-overload]
            return function(path, *arguments, **options)

        return call

    sys.addaudithook(hear)
    for name in ("stat", "lstat", "readlink"):  # nothing is heard of these
        setattr(os, name, hiding(getattr(os, name)))


def _kill(pid: int, number: int) -> None:
    """End a process as Windows does, where 0 and 1 are keys that all of a console hear."""
    if number in (0, 1):
        raise AssertionError(f"os.kill({pid}, {number}) would press Ctrl+C in the console")
    os.kill(pid, signal.SIGKILL)


def pretend(system: str) -> None:
    """Show the packages another system from now on.

    Args:
        system: windows or macos.
    """
    missing, found = MISSING[system], dict(_FOUND[system])
    if system == "windows":
        found["os"] = {**found["os"], "kill": _kill}
        loops = (asyncio.BaseEventLoop, asyncio.SelectorEventLoop)
        for name in ("add_signal_handler", "remove_signal_handler"):
            for loop in loops:
                setattr(loop, name, _refuse)
    _hide_proc()
    shown: dict[str, Lacking] = {}
    real_import = builtins.__import__

    def shown_import(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002  # its name is given
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        importer = str((globals or {}).get("__name__", "")).partition(".")[0]
        if importer not in PACKAGES or level:
            return real_import(name, globals, locals, fromlist, level)
        if system == "windows" and name in _MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        whole = real_import(name, globals, locals, fromlist, level)
        if name in missing or name in found:
            if name not in shown:
                real = importlib.import_module(name)
                shown[name] = Lacking(real, missing.get(name, ()), found.get(name, {}))
            return shown[name]
        return whole

    builtins.__import__ = shown_import


if _system := os.environ.get("ASYNCFRAME_AS"):
    pretend(_system)
