"""The program: its commands and options, and what it exits with."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from framework import __version__
from framework._records import checks
from framework._records.statuses import TaskStatus
from framework.cli import _replay, _schedules, _tasks, _worker, _workers
from framework.cli._mistakes import FOUND, GOOD, USAGE, CommandError
from framework.cli._screen import Screen
from framework.cli._sources import APP, STORE, Source, opened
from framework.exceptions import StoreUnavailableError

Command = Callable[[Source, Screen, argparse.Namespace], int]

_ABOUT: Final = """\
Look at the tasks of an app from outside, in the store its processes share.

On a terminal the output is for people; into a pipe or a file, and with --json,
it is JSON, one object a line. The beginning of an id is enough if no other id
begins with it."""

_END: Final = f"""\
environment: {STORE} and {APP} stand for --store and --app,
if neither is given.
exit status: 0 if all is well; 1 if something was not found or is not as asked;
2 for wrong usage.

for example:
  asyncframe list --app shop:app --status failed
  asyncframe list --store sqlite:///tasks.db --name mail | jq -r .task_id
  asyncframe wait 3f2a --app shop:app && echo done
  python -m framework doctor module:celery_app
  python -m framework.example           serves an example app on 127.0.0.1:8000"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words after the program's name; None for those of this process.

    Returns:
        The exit status.
    """
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given == ["help"]:
        parser.print_help()
        return GOOD
    chosen = parser.parse_args(given)
    screen = Screen(getattr(chosen, "json", None))
    try:
        status = _run(chosen, screen)
        # Here, where a closed pipe is no error, and not at the exit of the interpreter.
        screen.flush()
    except CommandError as error:
        screen.complain(str(error))
        return error.status
    except StoreUnavailableError as error:
        screen.complain(str(error))
        return FOUND
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        screen.drop()  # what reads the output, such as head, has enough
        return GOOD
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        screen.drop()
        screen.complain(f"the output cannot be written: {error.strerror}")
        return FOUND
    return status


def _run(chosen: argparse.Namespace, screen: Screen) -> int:
    if chosen.command == "version":
        screen.write(f"asyncframe {__version__}")
        return GOOD
    if chosen.command == "doctor":
        try:
            from framework import doctor
        except ImportError as error:
            screen.write(f"doctor: {error}")
            return USAGE
        return doctor.main([chosen.app])
    if chosen.command == "worker":
        return _worker.worker(screen, chosen)
    run: Command = chosen.run
    with opened(chosen) as source:
        return run(source, screen, chosen)


def _parser() -> argparse.ArgumentParser:
    as_module = Path(sys.argv[0]).name == "__main__.py"
    parser = argparse.ArgumentParser(
        prog="python -m framework" if as_module else "asyncframe",
        description=_ABOUT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"asyncframe {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=_sentence(text), allow_abbrev=False)
        made.set_defaults(run=run)
        where = made.add_argument_group("where the tasks are")
        where.add_argument("--store", metavar="URL", help="such as sqlite:///tasks.db")
        where.add_argument("--app", metavar="MODULE:APP", help="an app, as uvicorn takes it")
        _add_form(made)
        return made

    _add_tasks(add)
    scheduling = add("schedules", _schedules.schedules, "list, pause, resume and run schedules")
    scheduling.add_argument("action", nargs="?", choices=_schedules.ACTIONS, default="list")
    scheduling.add_argument("name", nargs="?", help="the schedule to pause, resume or run")
    _add_replay(
        commands.add_parser("replay", help=_REPLAYS, description=_ABOUT_REPLAYS, allow_abbrev=False)
    )
    add("workers", _workers.workers, "list the processes, and what each of them has to do")
    _add_worker(
        commands.add_parser(
            "worker", help=_WORKS, description=_sentence(_WORKS), allow_abbrev=False
        )
    )
    examining = commands.add_parser("doctor", help="check a Celery configuration")
    examining.add_argument("app", metavar="module:celery_app")
    commands.add_parser("version", help="print the version")
    return parser


def _add_tasks(add: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    listing = add("list", _tasks.list_tasks, "list tasks, the newest first")
    listing.add_argument(
        "--status",
        action="append",
        choices=(statuses := [str(one) for one in TaskStatus]),
        metavar="STATUS",
        help=f"only tasks with this status: {', '.join(statuses)}; may be given more than once",
    )
    listing.add_argument(
        "--name", help="only tasks of this name, or of the one that ends with it after a dot"
    )
    listing.add_argument("--label", help="only tasks with exactly this label")
    listing.add_argument(
        "--meta", metavar="JSON", help='only tasks whose meta has all of this, as {"tenant_id": 7}'
    )
    listing.add_argument("--owner", help="only tasks that belong to this owner")
    listing.add_argument(
        "--search",
        metavar="TEXT",
        help="only tasks with this in id, name, description or label",
    )
    listing.add_argument("--limit", type=int, default=20, help="at most so many, up to 1000")
    listing.add_argument("--after", metavar="PLACE", help="go on where another list ended")
    listing.add_argument("--all", action="store_true", help="print one page after the other")
    listing.add_argument("--oldest-first", action="store_true")
    showing = add("show", _tasks.show, "show one task")
    showing.add_argument("id")
    waiting = add("wait", _tasks.wait, "wait until a task has ended, and show it")
    waiting.add_argument("id")
    waiting.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="wait no longer")
    repeating = add("run-again", _tasks.run_again, "run tasks again that ended without a result")
    repeating.add_argument("ids", nargs="+", metavar="id")
    cancelling = add("cancel", _tasks.cancel, "cancel tasks")
    cancelling.add_argument("ids", nargs="+", metavar="id")
    cancelling.add_argument(
        "--timeout",
        type=_seconds,
        default=3.0,
        metavar="SECONDS",
        help="how long to wait for their end (default: 3)",
    )
    cancelling.add_argument(
        "--at-once",
        action="store_true",
        help="end those that wait to go on as they are: their code does not run any more",
    )


def _add_form(made: argparse.ArgumentParser) -> None:
    form = made.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", default=None, help="print JSON on a terminal, too"
    )
    form.add_argument(
        "--table", action="store_false", dest="json", help="print tables into a pipe, too"
    )


_REPLAYS: Final = "say which tasks under way an app's code would lead elsewhere"
_ABOUT_REPLAYS: Final = """\
Run the code of each task again that has not ended and goes on from its steps. Each step is
answered from its record: none runs, and nothing is written. The code between the steps does run,
here and now. The app is imported, and not started. Exits with 1 if a task would go elsewhere."""


def _add_replay(replaying: argparse.ArgumentParser) -> None:
    replaying.set_defaults(run=_replay.replay)
    replaying.add_argument(
        "app", nargs="?", metavar="module:app", help="an app with the new code, as uvicorn takes it"
    )
    replaying.add_argument(
        "--store", metavar="URL", help="where the tasks are, if not in the app's own store"
    )
    replaying.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="replay only tasks of this function; may be given more than once",
    )
    replaying.add_argument(
        "--timeout",
        type=_limit,
        default=5.0,
        metavar="SECONDS",
        help="how long each task may take (default: 5)",
    )
    _add_form(replaying)


_WORKS: Final = "run an app without its server, and take the tasks that wait"


def _add_worker(working: argparse.ArgumentParser) -> None:
    working.add_argument("app", nargs="?", metavar="module:app", help="an app, as uvicorn takes it")
    working.add_argument(
        "--factory", action="store_true", help="the name is that of a function that returns the app"
    )
    working.add_argument(
        "--store", metavar="URL", help="take the tasks of this store, and not of the app's own"
    )
    working.add_argument(
        "--max-workers",
        type=_places,
        metavar="N",
        help="how many threads run at once, and as many async tasks (default: as the app says)",
    )
    working.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="take only tasks of this function; may be given more than once",
    )
    working.add_argument(
        "--health-port",
        type=_port,
        metavar="PORT",
        help="answer probes at /health/live and /health/ready on this port",
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, not {text!r}")
    return int(text)


def _places(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def _limit(text: str) -> float:
    found = _seconds(text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be more than 0 seconds, not {text!r}")
    return found


def _seconds(text: str) -> float:
    try:
        return checks.number("seconds", float(text), at_least=0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be 0 or more seconds, not {text!r}") from None
