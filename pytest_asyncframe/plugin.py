"""The pytest hooks and fixtures; other modules are imported when they are first used."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_asyncframe._toolkit import items, options

if TYPE_CHECKING:
    from framework import TaskManager, ThreadPoolExecutorEnhanced
    from pytest_asyncframe._report.gates import Findings
    from pytest_asyncframe._report.timeline import Timeline
    from pytest_asyncframe._toolkit.toolkit import Toolkit
    from pytest_asyncframe.benchmark import Row, TaskBenchmark
    from pytest_asyncframe.clock import VirtualClock
    from pytest_asyncframe.executor import DeterministicExecutor
    from pytest_asyncframe.faults import FaultPlan
    from pytest_asyncframe.probe import Probe

FIXTURES = frozenset(
    {"asyncframe", "task_pool", "task_manager", "task_executor", "task_clock", "task_faults"}
)

_SETTINGS = pytest.StashKey[options.Settings]()
_TOOLKIT = pytest.StashKey["Toolkit"]()
_ERROR = pytest.StashKey[BaseException]()
_FAILED = pytest.StashKey[bool]()
_BENCHMARKS = pytest.StashKey[list["Row"]]()
_TIMELINE = pytest.StashKey["Timeline"]()
_LAST_SECTION = pytest.StashKey[tuple[str, str]]()

_TEST_MODULES: set[str] = set()
"""Names of the modules that tests were collected from, also by a run inside this run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the ini keys and options."""
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and check the ini file."""
    for name, text in options.MARKERS.items():
        config.addinivalue_line("markers", name + text)
    if not _has_pytest_asyncio(config):
        # Most projects have it on each async test. Strict markers would refuse it.
        config.addinivalue_line("markers", options.OF_PYTEST_ASYNCIO)
    config.stash[_SETTINGS] = options.settings_of(config)
    if options.sets_exploration(config):
        from pytest_asyncframe._explore import plan  # only if it is used

        plan.plan_of(config)
    if options.sets_modes(config):
        from pytest_asyncframe._modes import marker as modes  # only if it is used

        modes.from_options(config, 0)


# -- tests that are run several times


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the test of a replay line, if there is one."""
    if config.getoption("asyncframe_replay") is not None:
        from pytest_asyncframe._explore import plan  # only if it is used

        plan.select(config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test that is marked with task_modes, interleave or crash_points several times."""
    modes, schedules = items.closeness(item, "task_modes"), items.closeness(item, "interleave")
    crashes = items.closeness(item, "crash_points")
    if not (modes or schedules or crashes):
        return None
    if crashes == schedules > modes:
        from pytest_asyncframe._crashes.interleaved import protocol  # only if it is used
    elif crashes >= max(modes, schedules):
        from pytest_asyncframe._crashes.searched import protocol  # only if it is used
    elif modes >= schedules:
        from pytest_asyncframe._modes.variant_runs import protocol  # only if it is used
    else:
        from pytest_asyncframe._explore.explorer import protocol  # only if it is used

    asked = items.requested(item, FIXTURES, __name__)
    return protocol(item, nextitem, item.config.stash[_SETTINGS], asked)


def pytest_report_teststatus(report: Any) -> tuple[str, str, str] | None:
    """Show what the runs of a test prove, or in which modes it passes."""
    proof = getattr(report, items.PROOF, None)
    if proof is None or not report.passed or hasattr(report, "wasxfail"):
        return None
    return "passed", ".", f"PASSED ({proof})"


@pytest.hookimpl(tryfirst=True)
def pytest_exception_interact(node: pytest.Item, report: Any) -> None:
    """Show what was found before a debugger starts, since pytest does not show it later."""
    terminal: Any = node.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or not node.config.getoption("usepdb", False):
        return
    for title, text in getattr(report, "sections", ()):
        if title == "exploration":
            terminal.ensure_newline()
            terminal.write_line(text)


# -- a toolkit for each test that uses a fixture


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Create the test's toolkit before any of its fixtures or event loops."""
    asked = items.requested(item, FIXTURES, __name__)
    if asked:
        # Reset it, because a plugin may run failed tests again.
        item.stash[_FAILED] = False
        if _ERROR in item.stash:
            del item.stash[_ERROR]
        try:
            _open_toolkit(item, asked)
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
            # Raised here, it would skip the setup of other plugins.
            # The fixtures raise it.
            item.stash[_ERROR] = error
    yield
    if items.REFUSED in item.stash:
        pytest.fail(item.stash[items.REFUSED], pytrace=False)


def _open_toolkit(item: pytest.Item, asked: frozenset[str]) -> None:
    from pytest_asyncframe._modes.marker import in_variant  # only if it is used

    settings = in_variant(item, options.settings_for(item, item.config.stash[_SETTINGS]))
    options.check_fixtures(item, settings.mode, asked, settings.backend)

    try:
        from pytest_asyncframe._borrowed import require_known  # only if it is used

        require_known()
        from pytest_asyncframe._backends.back_end import BackEnd  # as above
        from pytest_asyncframe._toolkit.toolkit import Toolkit  # as above
    except ImportError:
        options.check_framework()
        raise

    back_end = BackEnd()
    if settings.backend != "memory":
        from pytest_asyncframe._backends import chosen  # only if it is used

        back_end = chosen.back_end(settings.backend, item.config)
    toolkit = Toolkit(
        settings, asked, item.stash.get(items.RUN, None), partial(items.code_of, item), back_end
    )
    if toolkit.is_virtual:
        options.check_surroundings(item)
    else:
        options.check_time(item)
    toolkit.open()
    # Also on the config, because fixtures of a wider scope need it.
    item.stash[_TOOLKIT] = item.config.stash[_TOOLKIT] = toolkit


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Check what the test has left behind, and close its toolkit, after all fixtures."""
    toolkit = item.stash.get(_TOOLKIT, None)
    if toolkit is None:
        return (yield)

    from pytest_asyncframe._report import gates  # only if it is used

    findings: Findings = []
    broken = True
    try:
        yield
        findings = gates.findings(toolkit)
        broken = any(texts for severity, texts in findings if severity == "error")
    finally:
        if broken or item.stash.get(_FAILED, False):
            # Now, while everything still exists.
            section = _timeline(item, toolkit).at_end(findings)
            if section is not None:
                item.stash[_LAST_SECTION] = section
            del item.stash[_TIMELINE]
        del item.stash[_TOOLKIT], item.config.stash[_TOOLKIT]
        toolkit.close()
        if items.RUN in item.stash:
            item.stash[items.RUN].end()
    findings = [*findings, ("error", toolkit.started_after_stop())]
    # Not of a test that is skipped in its middle, either, or that fails as `xfail` expects.
    gates.report(findings, failed=toolkit.cut_short or item.stash.get(_FAILED, False))
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """Record whether the test has failed, and add its task timeline to the report."""
    toolkit = item.stash.get(_TOOLKIT, None)
    caught = items.caught_by_unittest(item) or call.excinfo
    if caught is not None and _is_used():
        from pytest_asyncframe._report import errors  # only if a test has failed

        # A test without our fixtures may call tasks, too, but has none of our frames.
        # Without pytest's terminal, nobody can ask for the whole.
        whole = toolkit is None or item.config.getoption("fulltrace", False)
        errors.prepare(caught, whole=whole)
    if toolkit is not None and caught is not None:
        toolkit.cut_short = True
    report = yield
    section = item.stash.get(_LAST_SECTION, None)
    if section is not None:
        del item.stash[_LAST_SECTION]
    run = item.stash.get(items.RUN, None)
    # What an explored test has left behind may be the failure that its mark `xfail` expects.
    if report.failed and (run is None or not items.is_strict_pass(report)):
        item.stash[_FAILED] = True
        if toolkit is not None:
            error = None if caught is None else caught.value
            section = _timeline(item, toolkit).at_failure(error)
    if section is not None:
        # Sections are sent to xdist's controller.
        report.sections.append(section)
    return report if run is None else run.reported(report)


def _timeline(item: pytest.Item, toolkit: Toolkit) -> Timeline:
    from pytest_asyncframe._report.timeline import Timeline  # only if a test has failed

    if _TIMELINE not in item.stash:
        item.stash[_TIMELINE] = Timeline(toolkit, item.config.rootpath)
    return item.stash[_TIMELINE]


# -- event loops


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any],
    request: Any,  # a SubRequest, which pytest does not make public
) -> Generator[None, Any, Any]:
    """Run setup and teardown of a wider-scoped fixture in real time, in any test."""
    if fixturedef.scope == "function":
        return (yield)
    config = request.config
    ending = ExitStack()
    # Finalizers run in reverse order: this one runs last, and the one below first.
    fixturedef.addfinalizer(ending.close)
    with _real_time(config), _own_apps(fixturedef, config):
        result = yield
    fixturedef.addfinalizer(lambda: ending.enter_context(_real_time(config)))
    return result


def _own_apps(
    definition: pytest.FixtureDef[Any], config: pytest.Config
) -> AbstractContextManager[object]:
    """Let the apps that a wider-scoped fixture starts be its own, and not those of a test."""
    if not _is_used():
        return nullcontext()
    from pytest_asyncframe._toolkit import lasting  # only where there can be an app

    return lasting.watched(definition, config)


def _is_used() -> bool:
    """Whether something has imported asyncframe; a folder of the user's may have its name."""
    return hasattr(sys.modules.get("framework"), "setup_async_framework")


def _real_time(config: pytest.Config) -> AbstractContextManager[object]:
    """Let this thread wait in real time, even in a test with a virtual clock."""
    toolkit = config.stash.get(_TOOLKIT, None)
    return nullcontext() if toolkit is None else toolkit.outside()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an ``async def`` test that no other plugin runs."""
    toolkit = pyfuncitem.stash.get(_TOOLKIT, None)
    if toolkit is None or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    is_marked = pyfuncitem.get_closest_marker("asyncio") and _has_pytest_asyncio(pyfuncitem.config)
    if is_marked or "anyio_backend" in pyfuncitem.funcargs:
        return None
    import asyncio  # 10 ms that a run without such tests need not pay

    # A pytest without this gives no async test its arguments; pytest-asyncio would run it.
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    with asyncio.Runner(loop_factory=toolkit.loop_factory) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


def _has_pytest_asyncio(config: pytest.Config) -> bool:
    # Its name, and those under which it is known after -p.
    names = ("asyncio", "pytest_asyncio", "pytest_asyncio.plugin")
    return any(config.pluginmanager.hasplugin(name) for name in names)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Watch an async test for failures, and check what any test says must hold at its end."""
    toolkit = item.stash.get(_TOOLKIT, None)
    if toolkit is None:
        return (yield)
    passed = False
    try:
        with _watched(item, toolkit):
            result = yield
        passed = items.caught_by_unittest(item) is None
    finally:
        broken = toolkit.end_of_call(passed=passed)
    if broken:
        pytest.fail(broken, pytrace=False)
    run = item.stash.get(items.RUN, None)
    if passed and toolkit.settings.replay_steps != "off" and (run is None or run.replays):
        from pytest_asyncframe._report import gates, replays  # only if it is used

        # Before the fixtures end: the code of the tasks may need them.
        gates.report([(toolkit.settings.replay_steps, replays.findings(toolkit))], failed=False)
    return result


@contextmanager
def _watched(item: pytest.Item, toolkit: Toolkit) -> Iterator[None]:
    """When an async test fails, record where every task stands before its loop closes."""
    fn = getattr(item, "obj", None)
    if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(fn):
        yield
        return
    # Before pytest-asyncio replaces it with a sync function.
    item.obj = toolkit.recorder.watched(fn)
    try:
        yield
    finally:
        item.obj = fn


def pytest_enter_pdb(config: pytest.Config) -> None:
    """Let all other threads of the test wait while one is debugged."""
    _set_debugged(config, debugged=True)


def pytest_leave_pdb(config: pytest.Config) -> None:
    """Let the other threads of the test go on."""
    _set_debugged(config, debugged=False)


def _set_debugged(config: pytest.Config, *, debugged: bool) -> None:
    toolkit = config.stash.get(_TOOLKIT, None)
    if toolkit is not None and toolkit.sequencer is not None:
        toolkit.sequencer.watchdog.debugged = debugged


# -- collection and benchmarks


def pytest_itemcollected(item: pytest.Item) -> None:
    """Record the test's module, and tell pytest-benchmark which tests are benchmarks."""
    _TEST_MODULES.add(items.module_name(item))
    info = getattr(item, "_fixtureinfo", None)
    if info is None or not item.config.pluginmanager.hasplugin("benchmark"):
        return
    definitions = info.name2fixturedefs.get("task_benchmark", ())
    if (
        items.is_from(__name__, "task_benchmark", definitions)
        and "benchmark" not in info.names_closure
    ):
        info.names_closure.append("benchmark")


# After the table of pytest-benchmark, in whichever order the plugins are found.
@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show which tests prove less, or did not run everywhere, and a table of the benchmarks."""
    passed: list[Any] = terminalreporter.stats.get("passed", [])
    if any(str(getattr(one, items.PROOF, "")).endswith(items.PARTIALLY) for one in passed):
        from pytest_asyncframe._explore import conclusions  # only if it is used

        terminalreporter.section(items.PARTIALLY)
        for line in conclusions.partial_passes(passed):
            terminalreporter.write_line(line)
    reports = [one for some in terminalreporter.stats.values() for one in some]
    left_out = Counter(tuple(one) for it in reports for one in getattr(it, items.LEFT_OUT, ()))
    if left_out:
        terminalreporter.section("back ends left out")
        for (backend, why), count in left_out.items():
            tests = "1 test" if count == 1 else f"{count} tests"
            terminalreporter.write_line(f"{tests} not run on {backend}: {why}")
    rows = terminalreporter.config.stash.get(_BENCHMARKS, None)
    if rows:
        from pytest_asyncframe.benchmark import table  # only if it is used

        terminalreporter.section("task_benchmark (medians)")
        for line in table(rows):
            terminalreporter.write_line(line)


# -- fixtures


@pytest.fixture
def asyncframe(request: pytest.FixtureRequest) -> Probe:
    """A framework for this test, with test clients, methods to wait for tasks, and matchers."""
    toolkit = _toolkit(request)

    from pytest_asyncframe.probe import Probe  # only if it is used

    _location(toolkit, request)
    return Probe(toolkit)


@pytest.fixture
def task_manager(request: pytest.FixtureRequest) -> TaskManager:
    """A task manager for this test, which get_task_manager() and the decorators use."""
    return _toolkit(request).manager


@pytest.fixture
def task_pool(request: pytest.FixtureRequest) -> ThreadPoolExecutorEnhanced:
    """A thread pool for this test, with real threads."""
    return _toolkit(request).pool


@pytest.fixture
def task_executor(request: pytest.FixtureRequest) -> DeterministicExecutor:
    """An executor that runs a task only when the test tells it to."""
    return _toolkit(request).require_executor("task_executor")


@pytest.fixture
def task_clock(request: pytest.FixtureRequest) -> VirtualClock:
    """A virtual clock that the test moves."""
    return _toolkit(request).require_clock("task_clock")


@pytest.fixture
def task_faults(request: pytest.FixtureRequest) -> FaultPlan:
    """Plans faults for the tasks of this test: failures, slow calls, crashes and the like."""
    toolkit = _toolkit(request)
    _location(toolkit, request)
    return toolkit.faults


@pytest.fixture
def task_benchmark(request: pytest.FixtureRequest) -> TaskBenchmark:
    """Measures tasks with pytest-benchmark, in real time."""
    from pytest_asyncframe.benchmark import TaskBenchmark  # only if it is used

    toolkit = request.node.stash.get(_TOOLKIT, None)
    rows = request.config.stash.setdefault(_BENCHMARKS, [])
    return TaskBenchmark(request, toolkit, rows)


def _location(toolkit: Toolkit, request: pytest.FixtureRequest) -> None:
    """Tell which module the test is in, for the names of functions."""
    toolkit.module = getattr(request.node, "module", None)
    toolkit.foreign = _TEST_MODULES - {items.module_name(request.node)}


def _toolkit(request: pytest.FixtureRequest) -> Toolkit:
    error = request.node.stash.get(_ERROR, None)
    if isinstance(error, pytest.UsageError):
        pytest.fail(str(error), pytrace=False)
    if error is not None:
        raise error
    from pytest_asyncframe._toolkit import lasting  # only if it is used

    lasting_app = lasting.used_by(request.node)
    if lasting_app is not None:
        pytest.fail(lasting_app, pytrace=False)
    toolkit: Toolkit | None = request.node.stash.get(_TOOLKIT, None)
    if toolkit is None:
        raise pytest.UsageError(
            f"{request.fixturename} was requested with request.getfixturevalue(): make it an "
            "argument of the test or use usefixtures, so that it exists before the event loop"
        )
    return toolkit
