"""Health checks of real servers, from their start to their shutdown."""

from __future__ import annotations

import json
import signal
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.children import python
from tests.docs.test_deployment import DOCS, commands, dockerfile
from tests.patience import PATIENCE
from tests.serving import STOPPING, Server, serving

pytestmark = pytest.mark.extended("processes")

APP = "tests.processes.apps.watched:app"


def told(server: Server, path: str) -> tuple[int, Any]:
    """Return the status and the body of an answer."""
    try:
        with urlopen(f"{server.url}/health/{path}", timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def test_a_server_tells_that_it_will_shut_down() -> None:
    """After SIGTERM it is unready and still takes requests and tasks, until a second SIGTERM."""
    with serving(APP, env={"DELAY": "3600"}) as server:
        assert told(server, "live") == (200, {"status": "alive"})
        assert told(server, "ready") == (200, {"status": "ready", "problems": {}})
        server.send_signal(signal.SIGTERM)
        unready = {"status": "unready", "problems": {"framework": "the server is shutting down"}}
        while told(server, "ready") != (503, unready):
            assert server.process.poll() is None, server.log
        assert told(server, "live") == (200, {"status": "alive"})
        urlopen(f"{server.url}/tasks/1/0", data=b"", timeout=PATIENCE).close()
        assert STOPPING not in server.log
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE)
    assert STOPPING in server.log


def test_a_server_shuts_down_after_the_delay() -> None:
    """Once the delay is over the server shuts down as usual, with the status of the signal."""
    with serving(APP, env={"DELAY": "0.01"}) as server:
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == -signal.SIGTERM
    assert STOPPING in server.log


def test_the_image_of_the_docs() -> None:
    """The app of the page is served with the options of its image, whose check finds it alive."""
    options = [one for one in commands()[0][2:] if one not in ("--host", "0.0.0.0")]
    at = options.index("--port")
    del options[at : at + 2]
    (check,) = dockerfile()["HEALTHCHECK"]
    command = json.loads(check.partition("CMD ")[2])
    assert command[0] == "python"
    with serving("deployed:app", *options, app_dir=DOCS / "examples") as server:
        script = command[2].replace("http://127.0.0.1:8000", server.url)
        python("-c", script)
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE)
        python("-c", script, status=1)
