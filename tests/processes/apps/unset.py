"""An app that cannot be imported."""

import os

KEY = os.environ["NOWHERE"]
