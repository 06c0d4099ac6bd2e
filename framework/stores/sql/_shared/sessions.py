"""Sessions of the app: what a user gives as ``session``, and the connection behind it."""

from __future__ import annotations

import sys
from typing import Any

from sqlalchemy.engine import Connection


def resolved(session: Any) -> tuple[Any, Connection]:  # Any: as the user gives it
    """Return a session and the connection of its transaction, which is begun if there is none.

    Raises:
        TypeError: If it is no session, or one that can only be awaited.
    """
    if isinstance(session, Connection):
        return session, session
    if hasattr(session, "registry"):  # it stands for the one of this thread or asyncio task
        session = session()
    orm: Any = sys.modules.get("sqlalchemy.orm")
    if orm is not None and isinstance(session, orm.Session):
        return session, session.connection()
    kind = type(session).__qualname__
    if hasattr(session, "run_sync"):
        raise TypeError(
            f"session: a call that returns at once cannot wait for {kind}; use "
            "await manager.submit(function, args, session=session)"
        )
    raise TypeError(
        "session must be a Session, AsyncSession, Connection or AsyncConnection of SQLAlchemy, not "
        f"of type {kind}"
    )
