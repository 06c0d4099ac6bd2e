"""The command that replays: it says which tasks the code of an app would lead elsewhere."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from typing import TYPE_CHECKING, Any

from framework._records.checks import nearest
from framework._replays.differences import Difference, gone, not_resumed, unfit
from framework._replays.in_time import InTime
from framework._replays.replay import Recorded, silent_framework
from framework._running.log import escaped
from framework._tasks import registry
from framework._tasks.specs import TaskSpec
from framework._tasks.wire import decode_call
from framework.cli._apps import load_app
from framework.cli._facts import short_id
from framework.cli._mistakes import FOUND, GOOD, USAGE, CommandError
from framework.cli._screen import Screen
from framework.cli._sources import APP, Source

if TYPE_CHECKING:
    from framework.stores.sql._reading.under_way import TaskUnderWay

_NAMED = 3
"""How many ids are shown of the tasks of which the same was found."""


def replay(source: Source, screen: Screen, arguments: Namespace) -> int:
    """Replay the tasks that are under way, and print those that would go elsewhere."""
    if source.app is None:
        raise CommandError(
            f"which app? Name it as for uvicorn, asyncframe replay module:app, or set {APP}", USAGE
        )
    app = load_app(source.app.name)
    chosen = arguments.only
    unknown = set(chosen or ()).difference(registry.names())
    names = [one for one in registry.names() if _resumes(registry.find_spec(one))]
    groups: dict[tuple[str, str, str], _Group] = {}
    total = elsewhere = 0
    with (
        silent_framework() as core,
        closing(InTime(core, arguments.timeout)) as replays,
        screen.progress("replaying") as update,
        # What the code prints is none of the answer, which may be JSON.
        redirect_stdout(sys.stderr),
    ):
        for some in source.observer.under_way(names):
            for task in some:
                if chosen is not None and task.name not in chosen:
                    continue
                unknown.discard(task.name)
                total += 1
                found = _differences(task, app, replays)
                if found:
                    elsewhere += 1
                    _tell(task, found, screen, groups)
                update(None, f"{total} tasks, {elsewhere} go elsewhere")
    for group in groups.values():
        group.print(screen)
    if unknown:
        raise CommandError(_unknown(unknown, names), USAGE)
    tasks = "1 task" if total == 1 else f"{total:,} tasks"
    if not elsewhere:
        screen.say(f"{tasks} under way: none goes elsewhere with this code")
        return GOOD
    screen.say(f"{tasks} under way: {elsewhere:,} would go elsewhere with this code")
    return FOUND


def _unknown(given: set[str], names: list[str]) -> str:
    """Word that neither the app nor a task under way has functions of these names."""
    first = min(given)
    return (
        f"neither the app nor a task under way has a function {first!r}; the app can resume "
        f"{', '.join(sorted(names)) or 'none'}{nearest(first, names)}"
    )


def _resumes(spec: TaskSpec | None) -> bool:
    return spec is not None and spec.resumes


def _differences(task: TaskUnderWay, app: object, replays: InTime) -> list[Difference]:
    """Return where the code of a task leads elsewhere."""
    spec = registry.find_spec(task.name)
    if spec is None:
        return [gone(task.name, nearest(task.name, registry.names()))]
    if not spec.resumes:
        return [not_resumed(spec.options["on_restart"])]
    if task.call is None or task.call.startswith('"'):
        return [unfit(ValueError("its arguments were not kept"))]
    try:
        args, kwargs = decode_call(spec.fn, task.call)
        if spec.check is not None:
            spec.check(*args, **kwargs)
    except Exception as error:  # of types that are the user's code
        return [unfit(error)]
    if not task.steps:
        # Nothing is known of its way.
        return []
    found = task.task_id, spec, args, kwargs, task.steps, app, task.attempts
    recorded = Recorded(*found, run_again_of=task.run_again_of)
    return replays.replay(recorded)


def _tell(
    task: TaskUnderWay,
    found: Sequence[Difference],
    screen: Screen,
    groups: dict[tuple[str, str, str], _Group],
) -> None:
    if screen.as_json:
        screen.json(_facts(task, found))
        return
    for one in found:
        group = groups.setdefault((task.name, one.kind, one.step), _Group(task.name, one))
        group.ids[task.task_id] = None


def _facts(task: TaskUnderWay, found: Sequence[Difference]) -> dict[str, Any]:  # Any: JSON
    return {
        "task_id": task.task_id,
        "name": task.name,
        "status": task.status,
        "differences": [
            {"kind": one.kind, "step": one.step, "what": one.what, "cure": one.cure}
            for one in found
        ],
    }


class _Group:
    """Tasks of one function of which the same was found.

    Args:
        name: The function's.
        first: What was found of the first one.

    Attributes:
        ids: Theirs.
    """

    def __init__(self, name: str, first: Difference) -> None:
        self._name, self._first = name, first
        self.ids: dict[str, None] = {}

    def print(self, screen: Screen) -> None:
        """Print them for people."""
        shown = ", ".join(short_id(one) for one in list(self.ids)[:_NAMED])
        more = len(self.ids) - _NAMED
        which = f"{shown} and {more:,} more" if more > 0 else shown
        screen.say(f"{escaped(self._name)}: {which}")
        screen.say(f"  {escaped(self._first.what)}")
        screen.say(f"  {escaped(self._first.cure)}")
