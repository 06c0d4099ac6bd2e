"""Apps that fixtures of a wider scope run, in real time and for several tests."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from framework.testing import own_frameworks

_STARTED = pytest.StashKey[dict[Any, str]]()
"""By the definition of a fixture that has started an app, what to say of it."""


@contextmanager
def watched(definition: pytest.FixtureDef[Any], config: pytest.Config) -> Iterator[None]:
    """Let the apps that a fixture starts in the block be its own, and remember that it has any."""
    with own_frameworks() as are_running:
        yield
    if not are_running():
        return
    code = getattr(inspect.unwrap(definition.func), "__code__", None)
    location = f"{Path(code.co_filename).name}:{code.co_firstlineno}, " if code is not None else ""
    started = config.stash.setdefault(_STARTED, {})
    started[definition] = f"{definition.argname} ({location}scope {definition.scope})"
    definition.addfinalizer(lambda: started.pop(definition, None))


def used_by(item: pytest.Item) -> str | None:
    """Return the message for a test that uses a fixture with such an app; None if it does not."""
    info: Any = getattr(item, "_fixtureinfo", None)
    used = [one for some in info.name2fixturedefs.values() for one in some]
    for definition, text in item.config.stash.get(_STARTED, {}).items():
        if definition in used:
            return (
                f"the fixture {text} runs an app in real time, for other tests too, so this test "
                "cannot follow its tasks: give it function scope, and open the app in it with "
                "asyncframe.client(app)"
            )
    return None
