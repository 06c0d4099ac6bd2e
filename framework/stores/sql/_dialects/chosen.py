"""Which dialect a URL is for."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from framework._records import checks
from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._dialects.postgresql import PostgreSQL
from framework.stores.sql._dialects.sqlite import SQLite

_DIALECTS: Final[tuple[Dialect, ...]] = (
    SQLite(),
    PostgreSQL(),
)
_BY_NAME: Final = {name: one for one in _DIALECTS for name in (one.name, *one.aliases)}


def dialect_of(url: URL) -> Dialect:
    """Return the dialect of a URL that `checked_url` has returned."""
    return _BY_NAME[url.get_backend_name()]


def checked_url(url: object) -> URL:
    """Return *url* with the driver to use, if its database is supported.

    Raises:
        TypeError: If it is neither a string nor a URL of SQLAlchemy's.
        ValueError: If it is no URL, or one of another database, driver, or of no file.
    """
    first, *_ = examples = [repr(one.example) for one in _DIALECTS]
    if not isinstance(url, (str, URL)):
        raise TypeError(
            f"url must be a string such as {first}, or a sqlalchemy.URL, not {checks.show(url)}"
        )
    made = _parsed(url)
    if made is None or "@" in (made.host or ""):
        raise ValueError(
            f"url must be like {' or '.join(examples)}, not {checks.show(_guarded(str(url)))}"
            f"{_cure(str(url))}"
        )
    found = _BY_NAME.get(made.get_backend_name())
    if found is None:
        names = ", ".join(driver for one in _DIALECTS for driver in one.drivers)
        raise ValueError(
            f"url must start with one of {names}, not with {made.drivername!r}: no other "
            "database or driver is supported"
        )
    if made.drivername not in found.drivers:
        raise ValueError(_other_driver(made, found))
    found.check(made)
    return made.set(drivername=found.drivers[-1])


def shown(url: URL) -> str:
    """Return a URL for people, without its passwords."""
    secrets = [name for name in url.query if "password" in name]
    return url.difference_update_query(secrets).render_as_string(hide_password=True)


def _parsed(url: str | URL) -> URL | None:
    try:
        return sa.make_url(url)
    except (ArgumentError, ValueError):
        return None


def _guarded(url: str) -> str:
    """Return a text that is no URL, without what may be the password in it."""
    before, at, after = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, login = before.partition("//")
    user = f"{scheme}//{login.partition(':')[0]}:" if slashes else ""
    return f"{user}***@{after}"


def _cure(url: str) -> str:
    """Return what to change in a text that is no URL, if it looks nearly like one."""
    before, _, after = url.rpartition("@")
    if "," in after:
        return "; several hosts go behind the name, as in ?host=one:5432&host=two:5432"
    return "; in a password write '@' as %40, '/' as %2F and ':' as %3A" if ":" in before else ""


def _other_driver(url: URL, dialect: Dialect) -> str:
    """Return what is wrong with a URL whose database is supported, and its driver is not."""
    _, _, driver = url.drivername.partition("+")
    app = f"; your app may go on using {driver}" if driver else ""
    return (
        f"url must start with '{dialect.name}://', not with '{url.drivername}://': write "
        f"{dialect.name}://...; the store has a driver of its own, {dialect.library}{app}"
    )
