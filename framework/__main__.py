"""``python -m framework`` prints what you can run, and runs the doctor."""

from __future__ import annotations

import sys

from framework import __version__

_USAGE = """\
asyncframe: background tasks for FastAPI
  python -m framework.example                      serve the example app on 127.0.0.1:8000
  python -m framework doctor module:celery_app     check a Celery configuration
  python -m framework --version                    print the version"""

_HELP = ("-h", "--help", "help")


def main(arguments: list[str]) -> int:
    """Run a command; return the exit status."""
    if not arguments or any(word in _HELP for word in arguments):
        print(_USAGE)
        return 0
    if arguments == ["--version"]:
        print(f"asyncframe {__version__}")
        return 0
    if arguments[0] == "doctor":
        from framework import doctor

        return doctor.main(arguments[1:])
    print(f"unknown command {arguments[0]!r}\n{_USAGE}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
