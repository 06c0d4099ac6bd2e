"""Clients for the app under test: on the test's loop, on a thread's loop, or over a socket."""

from __future__ import annotations

import asyncio
import socket
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, nullcontext, suppress
from functools import partial
from types import TracebackType
from typing import Any, Literal, NoReturn, Protocol, Self, TypeAlias, TypeVar

from pytest_asyncframe._toolkit import live
from pytest_asyncframe._toolkit.lifespan import Lifespan, with_state
from pytest_asyncframe._toolkit.options import Transport
from pytest_asyncframe._toolkit.polling import Polling
from pytest_asyncframe._toolkit.pristine import client_classes, httpx_name

BASE_URL = "http://testserver"

Stack = TypeVar("Stack", AsyncExitStack, ExitStack)

OnCrash: TypeAlias = Literal["raise", "again"]

_Left: TypeAlias = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
"""The error with which a block is left: its class, the error, and its traceback."""


class ServingProcess(Protocol):
    """A process that serves apps, outside of which the test is, and that may die."""

    def start(self, app: Any) -> Future[Any]:
        """Run an app until `stop`."""
        ...

    def stop(self, app: Any) -> Future[Any]:
        """End an app."""
        ...

    def client(self, app: Any, options: dict[str, Any], *, raises: bool, again: bool) -> Any:
        """Return an ``httpx.AsyncClient`` of an app that was started.

        Args:
            app: The app.
            options: Options of the client.
            raises: Whether an exception in a route is raised in the test.
            again: Whether a request is repeated if the process dies before it is answered.
                Otherwise it raises ``httpx.RemoteProtocolError`` then.
        """
        ...

    def sync_client(self, app: Any, options: dict[str, Any], *, raises: bool, again: bool) -> Any:
        """Return an ``httpx.Client``, for a test that is no coroutine; see `client`."""
        ...


_MakeClient: TypeAlias = Callable[[str, live.WatchedApp, dict[str, Any]], Any]
"""Makes a client, given the URL of a server, the app that it serves, and options."""


class Client:
    """A client of one app, to be used in ``async with`` or ``with``.

    Args:
        app: Any ASGI app.
        loop_factory: Creates the event loop of the app in ``with``.
        base_url: Prefix of relative URLs.
        raise_app_exceptions: Whether exceptions in routes are raised in the test.
        on_crash: What becomes of a request whose process dies: "raise" raises
            ``httpx.RemoteProtocolError``, and "again" sends it once more.
        location: The line of the test that created it; "" if unknown.
        options: Further options of the ``httpx.AsyncClient`` or ``TestClient``.

    Attributes:
        app: The app.
        on_error: Called with an exception that leaves the block.
        on_enter: Called at the start of an ``async with`` block.
        around_exit: Context manager entered while the block is left.
        transport: The only transport that is allowed; None for that of the block.
        serve: Returns a live server for an app, for the transport ``live``.
        polling: Lets time pass for a test that asks again and again; None in real time.
        process: What serves the app if that may die; None to run it here.
    """

    def __init__(
        self,
        app: Any,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
        base_url: str = BASE_URL,
        *,
        raise_app_exceptions: bool = True,
        on_crash: OnCrash = "raise",
        location: str = "",
        **options: Any,
    ) -> None:
        if not callable(app):
            raise TypeError(f"client() takes an ASGI app, not {app!r}")
        if on_crash not in ("raise", "again"):
            raise ValueError(f"on_crash must be 'raise' or 'again', not {on_crash!r}")
        self.app = app
        self._loop_factory = loop_factory
        self._raises = raise_app_exceptions
        self._location = location
        self._options = {"base_url": base_url, **options}
        self._stack: AsyncExitStack | ExitStack | None = None
        self.on_error: Callable[[BaseException], object] = lambda _: None
        self.on_enter: Callable[[], object] = lambda: None
        self.around_exit: Callable[[], AbstractContextManager[object]] = nullcontext
        self.transport: Transport | None = None
        self.serve: Callable[[Any], LiveServer] | None = None
        self.polling: Polling | None = None
        self.process: ServingProcess | None = None
        self._on_crash = on_crash
        self._server: LiveServer | None = None

    @property
    def running(self) -> bool:
        """Whether it is open."""
        return self._stack is not None

    async def __aenter__(self) -> Any:
        """Start the app's lifespan on this loop, and return an ``httpx.AsyncClient``."""
        self.on_enter()
        self._require_usable("asgi", "async with")
        async with AsyncExitStack() as stack:
            if self.process is not None:
                stack.push_async_callback(self._stop_served, self.process)
                await asyncio.wrap_future(self.process.start(self.app))
                options, _ = self._options_of_transport()
                made = self.process.client(self.app, options, **self._of_process)
                if self.polling is not None:
                    _add_hook(made, self.polling.hook_on_loop)
            elif self.transport == "live":
                made = self._live(stack, live.async_client)
            else:
                async_client, asgi_transport = client_classes()
                state = await stack.enter_async_context(Lifespan(self.app))
                options, of_transport = self._options_of_transport()
                app = with_state(self.app, state)
                transport = asgi_transport(app, raise_app_exceptions=self._raises, **of_transport)
                made = async_client(transport=transport, **options)
                if self.polling is not None:
                    _add_hook(made, self.polling.hook_on_loop)
            client = await stack.enter_async_context(made)
            self._stack = stack.pop_all()
        return client

    async def __aexit__(self, *left: *_Left) -> None:
        stack = self._taken(AsyncExitStack, left[1])
        with self.around_exit():
            await stack.__aexit__(*left)

    def __enter__(self) -> Any:
        """Run the app on a loop in a thread, and return Starlette's ``TestClient``."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise RuntimeError(
                "'with asyncframe.client(app)' would block the event loop that runs this "
                "test: use 'async with asyncframe.client(app)'"
            )
        self._require_usable("testclient", "with")
        with ExitStack() as stack:
            if self.process is not None:
                process = self.process
                stack.callback(lambda: process.stop(self.app).result())
                process.start(self.app).result()
                options, _ = self._options_of_transport()
                made = process.sync_client(self.app, options, **self._of_process)
                if self.polling is not None:
                    _add_hook(made, self.polling.hook)
            elif self.transport == "live":
                made = self._live(stack, partial(live.sync_client, _test_client()))
            else:
                options = {"raise_server_exceptions": self._raises, **self._options}
                on_the_clock = {"loop_factory": self._loop_factory}
                made = _test_client()(self.app, backend_options=on_the_clock, **options)
                if self.polling is not None:
                    _add_hook(made, self.polling.hook)
            client = stack.enter_context(made)
            self._stack = stack.pop_all()
        return client

    @property
    def _of_process(self) -> dict[str, bool]:
        return {"raises": self._raises, "again": self._on_crash == "again"}

    async def _stop_served(self, process: ServingProcess) -> None:
        await asyncio.wrap_future(process.stop(self.app))

    def _live(self, stack: AsyncExitStack | ExitStack, make: _MakeClient) -> Any:
        """Start a server, which ends with *stack*, and return a client of it."""
        assert self.serve is not None
        options, of_transport = self._options_of_transport()
        app = live.WatchedApp(self.app, of_transport, watch=self._raises)
        stack.callback(app.raise_failure)
        try:
            self._server = stack.enter_context(self.serve(app))
        except RuntimeError:
            app.raise_failure()
            raise
        return make(self._server.url, app, options)

    def _require_usable(self, own: Transport, block: str) -> None:
        if self.transport not in (None, "live", own):
            raise RuntimeError(
                f"'{block} asyncframe.client(app)' is the transport {own!r}, but this run of the "
                f"test is for {self.transport!r}: leave that out of its marker's transports"
            )
        if self._stack is not None:
            raise RuntimeError("this client is already open: call asyncframe.client(app) again")

    def _options_of_transport(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options of the client, and those that are not httpx's."""
        options = self._options.copy()
        return options, {name: options.pop(name) for name in _OF_TRANSPORT if name in options}

    def __exit__(self, *left: *_Left) -> None:
        stack = self._taken(ExitStack, left[1])
        with self.around_exit():
            stack.__exit__(*left)

    def _taken(self, kind: type[Stack], error: BaseException | None) -> Stack:
        """Tell of an error that leaves the block; return what is to be closed."""
        if error is not None:
            self.on_error(error)
        stack, self._stack = self._stack, None
        assert isinstance(stack, kind)
        return stack

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"this client has no {name!r} yet: open it with 'async with asyncframe.client(app) "
            "as client:', or with 'with' in a test that is not a coroutine"
        )

    def __str__(self) -> str:
        return _described(self.app, self._location)

    def discard(self) -> None:
        """Close it if it was left open, as far as possible without its event loop."""
        stack, self._stack = self._stack, None
        if isinstance(stack, ExitStack):
            with suppress(Exception):
                stack.close()
        if self._server is not None:
            self._server.discard()


_OF_TRANSPORT = ("root_path", "client")
"""Options of ``TestClient`` that httpx expects on the transport."""


def _add_hook(client: Any, hook: Callable[[Any], object]) -> None:
    """Let a client of httpx call *hook* with each response, after the user's hooks."""
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "response": [*hooks["response"], hook]}


def _test_client() -> Any:
    httpx_name()
    with warnings.catch_warnings():
        # Starlette prefers httpx2, but httpx works too, and most have that.
        warnings.filterwarnings("ignore", message=".*httpx2.*")
        from starlette.testclient import TestClient  # see above
    return TestClient


def _described(app: Any, location: str) -> str:
    """Return the name of an app, and the line that created its client."""
    title, kind = getattr(app, "title", None), type(app).__name__
    name = getattr(app, "__qualname__", kind)
    if isinstance(title, str) and title != kind:
        name = f"{kind} {title!r}"
    return f"{name}, made at {location}," if location else name


class LiveServer:
    """A real uvicorn server in a thread, on a free port of the loopback interface.

    Args:
        app: Any ASGI app.
        around: Context manager entered while the server runs.
        away: Context manager entered while the calling thread waits for the server's thread.
        location: The line of the test that created it; "" if unknown.

    Raises:
        ImportError: If uvicorn is not installed.
    """

    def __init__(
        self,
        app: Any,
        around: Callable[[], AbstractContextManager[object]],
        away: Callable[[], AbstractContextManager[object]],
        location: str = "",
    ) -> None:
        try:
            import uvicorn  # only tests with a real server need it
        except ModuleNotFoundError as error:
            if error.name != "uvicorn":
                raise
            text = (
                "asyncframe.live_server() needs uvicorn: install the extra 'pytest' of asyncframe"
            )
            raise ImportError(text, name="uvicorn") from None

        self.app = app
        self._location = location
        ready = self._ready = threading.Event()

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                ready.set()

        self._stack = ExitStack()
        self._around = around
        self._away = away
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = Server(uvicorn.Config(app, log_config=None))
        self._thread = threading.Thread(target=self._serve, name="live server", daemon=True)

    @property
    def url(self) -> str:
        """The URL of the server, such as ``http://127.0.0.1:40123``.

        Raises:
            RuntimeError: If the server was never started with ``with``.
        """
        if self._thread.ident is None:
            raise RuntimeError(
                "this live server was not started: use 'with asyncframe.live_server(app) as "
                "server:'"
            )
        return self._url

    @property
    def running(self) -> bool:
        """Whether it is running."""
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        """Start the server, and return once it accepts requests.

        Raises:
            RuntimeError: If the app does not start; the log shows why.
        """
        self._stack.enter_context(self._around())
        with self._away():
            self._thread.start()
            self._ready.wait()
        if not self._server.started:
            self.stop()
            raise RuntimeError("the live server did not start: see the captured log")
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the server and its app."""
        self.stop()

    def stop(self) -> None:
        """Stop the server and its app; does nothing the second time."""
        self._server.should_exit = True
        self._stack.close()
        if self._thread.ident is not None:
            with self._away():
                self._thread.join()
        self._socket.close()

    def __str__(self) -> str:
        return f"live server of {_described(self.app, self._location)}"

    def discard(self) -> None:
        """Stop it; see `stop`."""
        self.stop()

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except SystemExit:  # raised by uvicorn if the app does not start
            return
        finally:
            self._ready.set()
