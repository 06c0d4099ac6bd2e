"""``python -m framework`` is the command line; see `framework.cli`."""

from __future__ import annotations

import sys

from framework.cli import main

if __name__ == "__main__":
    sys.exit(main())
