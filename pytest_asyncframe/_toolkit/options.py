"""The ini options, the command-line option and the marker, with checks of their values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias

import pytest

from pytest_asyncframe._backends.names import Backend

Mode: TypeAlias = Literal["manual", "auto", "virtual", "seeded", "threads"]
Transport: TypeAlias = Literal["asgi", "testclient", "live"]
Severity: TypeAlias = Literal["error", "warn", "off"]
Switch: TypeAlias = Literal["on", "off"]

MODES = ("manual", "auto", "virtual", "seeded", "threads")
TRANSPORTS = ("asgi", "testclient", "live")
SEVERITIES = ("error", "warn", "off")
SWITCHES = ("on", "off")

_CHOICES: dict[str, tuple[tuple[str, ...], str]] = {
    "mode": (MODES, "how tasks run"),
    "leaks": (
        SEVERITIES,
        "how to report tasks, threads, timers and clients that a test leaves behind",
    ),
    "lost_failures": (SEVERITIES, "how to report failures of tasks that nobody has read"),
    "blocked_loop": (SEVERITIES, "how to report calls that block an event loop"),
    "replay_steps": (
        SEVERITIES,
        "how to report tasks that go another way when they are replayed from their steps",
    ),
    "app_rules": (SWITCHES, "whether the rules of the app's own engine and store apply to tasks"),
}
"""The ini keys and keywords of the marker that take one of some words, and what they say."""

_TEXTS = {
    "start": "date and time at which virtual time starts, in ISO 8601 with an offset; empty for "
    "now",
    "seeds": "under how many schedules tests marked with interleave run at the most, if their "
    "marker does not say",
    "policy": "which schedules they run under, if their marker does not say",
    "level": "at which places other threads and tasks may run in them, if their marker does not "
    "say",
    "app": "the app that worker processes import for tests on 'workers' and 'celery', such as "
    "shop.main:app; empty for that of the test",
    "postgresql_url": "a database of PostgreSQL whose user may make others, for tests on "
    "'postgresql'; empty for a server that the run starts. $ASYNCFRAME_POSTGRESQL_URL goes first",
    "redis_url": "a Redis for tests on 'celery'; empty for a server that the run starts. "
    "$ASYNCFRAME_REDIS_URL goes first",
}
"""Further ini keys, which are empty by default, and what they say."""

_COMMANDS = {
    "seed=NUMBER": "seed of tests without one in their marker: for the order in mode seeded, and "
    "jitter",
    "seeds=NUMBER": "run each test marked with interleave under this many schedules at the most",
    "budget=SECONDS": "start no further schedule of a test once this many real seconds have passed",
    "replay=LINE": "run one test under the schedule of the replay line that a failure printed",
    "modes=MODES": "run tests marked with task_modes in these modes instead, separated by commas",
    "transports=TRANSPORTS": "run tests marked with task_modes over these transports instead",
    "on=BACKENDS": "run tests marked with task_modes on these back ends instead",
}
"""Options of the command line, and what they say."""

_TYPES: dict[str, type] = {"NUMBER": int, "SECONDS": float}
"""What an option takes that is no text."""

_LOOPTIMES = pytest.StashKey[list[str]]()
"""Names of looptime's plugins, after the first test that needs them."""

MARKERS = {
    "asyncframe": "(mode=, seed=, start=, leaks=, lost_failures=, blocked_loop=, replay_steps=, "
    "app_rules=, pollers=): configure asyncframe's fixtures for a test: how tasks run, when "
    "virtual time starts, and what fails the test",
    "interleave": "(seeds=200, policy='delays', level='auto', faults=False, races=False, "
    "benign=[]): run a test that uses asyncframe under many schedules of its threads and event "
    "loops, to find races",
    "crash_points": "(depth=1, most=1000): run a test that uses asyncframe once for each point at "
    "which its process can die, and go on with a new one on the same store",
    "task_modes": "(*modes, transports=(), on=()): run a test that uses asyncframe in several "
    "modes, over several transports and on several back ends, and report which ones disagree",
}
"""What the markers take, and what they say."""

OF_PYTEST_ASYNCIO = (
    "asyncio: a test for pytest-asyncio, which is not there: asyncframe runs it if it uses one of "
    "its fixtures"
)
"""What a marker of another plugin says, where that plugin is missing."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one test.

    Attributes:
        mode: How tasks run; see the table in the documentation.
        seed: Seed of the order in the mode ``seeded``, and of jitter.
        seed_is_option: Whether the seed comes from the command line.
        start: Date and time at second 0 of virtual time, aware; None for now.
        leaks: Whether what a test leaves behind is an error, a warning or ignored.
        lost_failures: The same for task failures that nobody has read.
        blocked_loop: The same for calls that block an event loop.
        replay_steps: The same for tasks that go another way when they are replayed.
        stuck_timeout: Real seconds without progress after which a test is reported as
            stuck, above 0.
        app_rules: Whether the rules of the app's own engine and store apply.
        pollers: Functions, or their names, whose tasks run until the app stops.
        transport: How clients must reach the app; None for the way that their block says.
        backend: What keeps the tasks and runs them.
        drains: Whether a wait of the probe runs what is queued in the mode ``manual``.
    """

    mode: Mode = "auto"
    seed: int = 0
    seed_is_option: bool = False
    start: datetime | None = None
    leaks: Severity = "error"
    lost_failures: Severity = "error"
    blocked_loop: Severity = "error"
    replay_steps: Severity = "error"
    stuck_timeout: float = 5.0
    app_rules: Switch = "on"
    pollers: tuple[Callable[..., Any] | str, ...] = ()
    transport: Transport | None = None
    backend: Backend = "memory"
    drains: bool = False


_DEFAULTS = Settings()


def add_options(parser: pytest.Parser) -> None:
    """Register the ini options and the command-line option."""
    group = parser.getgroup("asyncframe")
    for command, what in _COMMANDS.items():
        name, _, takes = command.partition("=")
        kind = _TYPES.get(takes, str)
        group.addoption(f"--asyncframe-{name}", type=kind, metavar=takes, help=what)
    group.addoption(
        "--asyncframe-crash",
        action="append",
        metavar="POINT",
        help="run tests marked with crash_points once, with a crash at this point, as a failure "
        "printed it; may be given twice",
    )
    group.addoption(
        "--asyncframe-check-determinism",
        action="store_true",
        help="run each schedule twice, and fail where two runs with the same choices differ",
    )
    for key, (allowed, what) in _CHOICES.items():
        default = getattr(_DEFAULTS, key)
        parser.addini(f"asyncframe_{key}", f"{what}: {_listed(allowed)}", default=default)
    for key, what in _TEXTS.items():
        parser.addini(f"asyncframe_{key}", what, default="")
    parser.addini(
        "asyncframe_pollers",
        "names of functions whose tasks run until the app stops, and so are not leaks",
        type="args",
        default=[],
    )
    parser.addini(
        "asyncframe_explore",
        "names of packages whose files have points in explored tests, as your own have",
        type="args",
        default=[],
    )
    parser.addini(
        "asyncframe_stuck_timeout",
        "real seconds without progress after which a test with virtual time is reported as stuck",
        default="5",
    )


def sets_modes(config: pytest.Config) -> bool:
    """Whether the command line says in which modes, over and on what tests run."""
    return _are_given(config, "modes", "transports", "on")


def sets_exploration(config: pytest.Config) -> bool:
    """Whether the command line or the ini file says anything about explored tests."""
    keys = ("seeds", "policy", "level", "explore")
    return _are_given(config, "seeds", "budget", "replay") or any(
        config.getini(f"asyncframe_{key}") for key in keys
    )


def _are_given(config: pytest.Config, *names: str) -> bool:
    return any(config.getoption(f"asyncframe_{name}") is not None for name in names)


def settings_of(config: pytest.Config) -> Settings:
    """Return the settings of the ini file and the command line.

    Raises:
        pytest.UsageError: If a value is not allowed.
    """
    text = config.getini("asyncframe_stuck_timeout")
    try:
        stuck_timeout = float(text)
    except ValueError:
        stuck_timeout = 0.0
    if not 0 < stuck_timeout < float("inf"):
        raise pytest.UsageError(
            f"asyncframe_stuck_timeout = {text!r} in the ini file: it must be a number of "
            "seconds above 0"
        )
    start = config.getini("asyncframe_start")
    return Settings(
        seed=config.getoption("asyncframe_seed") or 0,
        seed_is_option=config.getoption("asyncframe_seed") is not None,
        start=_moment(start, f"asyncframe_start = {start!r} in the ini file") if start else None,
        stuck_timeout=stuck_timeout,
        pollers=tuple(config.getini("asyncframe_pollers")),
        **{key: _ini(config, key) for key in _CHOICES},
    )


def settings_for(item: pytest.Item, base: Settings) -> Settings:
    """Return *base*, changed by the markers of a test; closer markers win.

    Raises:
        pytest.UsageError: If a marker has a keyword or a value that is not allowed.
    """
    found = base
    for marker in reversed(list(item.iter_markers("asyncframe"))):
        require_keywords(marker, _KEYWORDS)
        for keyword, value in marker.kwargs.items():
            _check_keyword(keyword, value)
        changed = dict(marker.kwargs)
        if "pollers" in changed:
            # In addition to those of the ini file and of outer markers.
            changed["pollers"] = (*found.pollers, *_several(changed["pollers"]))
        if "seed" in changed:
            changed["seed_is_option"] = False
        if "start" in changed:
            changed["start"] = _moment_of_marker(changed["start"])
        found = replace(found, **changed)
    return found


def check_fixtures(
    item: pytest.Item, mode: Mode, asked: Collection[str], backend: Backend = "memory"
) -> None:
    """Check that the fixtures of a test fit its mode, and what it runs on.

    Raises:
        pytest.UsageError: If they do not.
    """
    if backend != "memory":
        for name, why in _OF_MEMORY.items():
            if name in asked:
                raise pytest.UsageError(
                    f"{item.name} requests {name}, but {why} on {backend}: remove {name}, or leave "
                    f"{backend} out of 'on'"
                )
    if "asyncframe" not in asked:
        if any("mode" in marker.kwargs for marker in item.iter_markers("asyncframe")):
            raise pytest.UsageError(
                f"{item.name} has a mode, which needs the fixture asyncframe, but requests only "
                f"{_listed(sorted(asked))}: request asyncframe, or remove the mode"
            )
        return
    for name, modes, why in (
        ("task_executor", ("virtual", "threads"), "tasks start by themselves"),
        ("task_clock", ("threads",), "time is real"),
    ):
        if name in asked and mode in modes:
            fitting = [one for one in MODES if one not in modes]
            raise pytest.UsageError(
                f"{item.name} requests {name}, but {why} in its mode {mode!r}: use one of the "
                f"modes {_listed(fitting)}, or remove {name}"
            )


_OF_MEMORY = {
    "task_executor": "tasks start by themselves",
    "task_clock": "time is real",
    "task_faults": "nothing is injected",
}
"""Fixtures that work only on the back end ``memory``, and why."""


def check_framework() -> None:
    """Check that ``framework``, which could not be imported, is not another package.

    Raises:
        pytest.UsageError: If it is.
    """
    found = sys.modules.get("framework")
    if found is None or hasattr(found, "setup_async_framework"):
        return
    where = getattr(found, "__file__", None) or next(iter(found.__path__))
    raise pytest.UsageError(
        f"asyncframe's package 'framework' is hidden by another one, {where!r}: rename that, "
        "or remove its __init__.py if it is a folder of tests"
    )


def check_time(item: pytest.Item) -> None:
    """Check that the marker of a test in real time has no ``start``.

    Raises:
        pytest.UsageError: If it has.
    """
    if any("start" in marker.kwargs for marker in item.iter_markers("asyncframe")):
        raise pytest.UsageError(
            f"{item.name} has a start, which needs virtual time, but its time is real: request "
            "asyncframe, in any mode but 'threads', or task_clock, or remove the start"
        )


def check_surroundings(item: pytest.Item) -> None:
    """Check that nothing else controls the time of a test with a virtual clock.

    Raises:
        pytest.UsageError: If something does.
    """
    scope = getattr(item, "_loop_scope", "function")
    if scope != "function":
        raise pytest.UsageError(
            f"{item.name} has a virtual clock of its own, but shares its event loop with its "
            f"{scope}: give it a loop of its own with @pytest.mark.asyncio"
            "(loop_scope='function') or asyncio_default_test_loop_scope = function"
        )
    looptimes = item.config.stash.get(_LOOPTIMES, None)
    if looptimes is None:
        plugins = item.config.pluginmanager.list_name_plugin()
        looptimes = [name for name, _ in plugins if name.startswith("looptime")]
        item.config.stash[_LOOPTIMES] = looptimes
    if looptimes:
        options = " ".join(f"-p no:{name}" for name in looptimes)
        raise pytest.UsageError(
            f"{item.name} has a virtual clock, but looptime patches the time of event loops "
            f"as well: run pytest with '{options}', or uninstall it"
        )
    if item.get_closest_marker("trio") is not None:
        raise pytest.UsageError(
            f"{item.name} is run by trio, but its virtual clock needs an asyncio event loop: "
            "remove the marker trio and the setting trio_mode, or the fixture"
        )
    freezegun: Any = sys.modules.get("freezegun")
    if freezegun is not None and freezegun.api.freeze_factories:
        raise pytest.UsageError(
            f"{item.name} has a virtual clock, but freezegun has frozen time around it: remove "
            "freezegun, since the virtual clock moves datetime.now() if time-machine is installed"
        )


_KEYWORDS = (
    "mode, seed, start, leaks, lost_failures, blocked_loop, replay_steps, app_rules, pollers"
)


def require_keywords(marker: pytest.Mark, allowed: str) -> None:
    """Check that a marker has keywords only, all of which are in the list *allowed*.

    Raises:
        pytest.UsageError: If not.
    """
    name = f"@pytest.mark.{marker.name}"
    if marker.args:
        raise pytest.UsageError(f"{name} takes keywords only, not {marker.args!r}: {allowed}")
    for keyword in marker.kwargs:
        if keyword not in allowed.split(", "):
            raise pytest.UsageError(f"{name} has no keyword {keyword!r}; it takes {allowed}")


def _check_keyword(keyword: str, value: Any) -> None:  # Any: whatever a user wrote
    if keyword == "seed":
        if not isinstance(value, int) or isinstance(value, bool):
            raise pytest.UsageError(
                f"@pytest.mark.asyncframe(seed={value!r}): seed must be a whole number"
            )
    elif keyword == "start":
        _moment_of_marker(value)
    elif keyword == "pollers":
        if not all(isinstance(one, str) or callable(one) for one in _several(value)):
            raise pytest.UsageError(
                f"@pytest.mark.asyncframe(pollers={value!r}): pollers must be a list of functions "
                "and names"
            )
    else:
        _check_choice(keyword, value, f"@pytest.mark.asyncframe({keyword}={value!r}): {keyword}")


def _moment_of_marker(value: Any) -> datetime:
    return _moment(value, f"@pytest.mark.asyncframe(start={value!r})")


def _moment(value: Any, given: str) -> datetime:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            return moment
    except (TypeError, ValueError):
        pass
    raise pytest.UsageError(
        f"{given}: it must be a date and time in ISO 8601 with its offset from UTC, such as "
        "'2030-01-01T00:00:00+00:00'"
    )


def _several(value: Any) -> tuple[Any, ...]:  # Any: whatever a user wrote
    return tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else (value,)


def _ini(config: pytest.Config, key: str) -> Any:  # Any: one of the words of `Settings`
    value = str(config.getini(f"asyncframe_{key}"))
    _check_choice(key, value, f"asyncframe_{key} = {value!r} in the ini file: it")
    return value


def _check_choice(key: str, value: Any, given: str) -> None:
    allowed = _CHOICES[key][0]
    if value not in allowed:
        raise pytest.UsageError(f"{given} must be one of {_listed(allowed)}")


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values)
