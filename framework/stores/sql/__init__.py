"""Tasks in a SQL database: shared by several processes, kept over restarts.

Needs the extra ``sql``, for PostgreSQL also the extra ``postgresql``.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("sqlalchemy") is None:
    raise ImportError(
        "a store in a SQL database needs SQLAlchemy: install the extra 'sql' of asyncframe"
    )

from framework._records import exports
from framework.stores.sql._store import SQLStore

__all__ = ["SQLStore"]

exports.pin(globals())
