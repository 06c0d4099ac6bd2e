"""``python -m framework`` says what there is to run, and runs the doctor."""

from __future__ import annotations

import sys

_USAGE = """\
asyncframe: background tasks for FastAPI
  python -m framework.example                      serve the example app on 127.0.0.1:8000
  python -m framework doctor module:celery_app     find what is wrong with a Celery set-up"""


def main(arguments: list[str]) -> int:
    """Run what is asked for; return the exit status."""
    if arguments[:1] == ["doctor"]:
        from framework import doctor

        return doctor.main(arguments[1:])
    print(_USAGE)
    return 2 if arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
