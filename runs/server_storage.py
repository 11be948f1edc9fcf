"""Database servers as storages: detects a lost connection, and whether a database is naslab's."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event, inspect, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, IntegrityError

from naslab.errors import InputError
from naslab.runs.extras import is_installed
from naslab.runs.patience import StorageAway
from naslab.runs.storage_url import shown, without_secrets

LIBPQ = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A machine that is cut off says nothing: after half a minute without an answer it is taken for gone."""
ALREADY_THERE = frozenset({"42P07", "42710", "42P06"})
"""PostgreSQL's codes for a table, a type or a schema that exists; its words depend on its language."""


def with_driver(url: str) -> str:
    """The URL of a PostgreSQL database with a Python driver that is installed, where it names none.

    Which one SQLAlchemy would take depends on its version.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres"):
        return url
    installed = [name for name in ("psycopg", "psycopg2") if is_installed(name)]
    return f"postgresql+{installed[0] if installed else 'psycopg2'}://{rest}"


def server_arguments(url: str) -> dict[str, Any]:
    """Of the engine: a connection that was broken while nobody used it is made anew."""
    parts = make_url(url)
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if parts.drivername in ("postgresql+psycopg2", "postgresql+psycopg"):
        arguments["connect_args"] = {name: value for name, value in LIBPQ.items() if name not in parts.query}
    return arguments


def tell_who_is_away(engine: Engine, url: str) -> None:
    """Raise StorageAway where the server is gone. Optuna does not know it, and so does not ask again by itself: it
    would write twice what was written when the answer was lost.
    """

    def handle(context: ExceptionContext) -> None:
        if (context.is_disconnect or context.connection is None) and not context.is_pre_ping:
            said = without_secrets(str(context.original_exception).strip(), url).splitlines()
            why = said[0] if said else type(context.original_exception).__name__
            raise StorageAway(f"{shown(url)}: the storage cannot be reached: {why}")

    event.listen(engine, "handle_error", handle)


def check_server(engine: Engine, url: str, create: bool) -> None:
    """Refuse a database that something else uses, and one without studies where none is to be made.

    Raises:
        InputError: see above.
    """
    tables = set(inspect(engine).get_table_names())
    if "version_info" not in tables:
        if foreign := sorted(tables & {"studies", "trials"}):
            raise InputError(
                f"{shown(url)}: its table {foreign[0]!r} is not naslab's; choose another database, or another schema: "
                "?options=-csearch_path%3DNAME"
            )
        if not create:
            raise InputError(f"{shown(url)}: holds no studies; `naslab run STUDY.yaml --storage URL` makes the first")


def was_made_meanwhile(error: DBAPIError) -> bool:
    """Whether a table could not be made because another process had just made it."""
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return isinstance(error, IntegrityError) or code in ALREADY_THERE or "already exists" in str(error.orig)
