"""Storages: Optuna's view of a database, and its errors in one line each."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

from naslab.errors import InputError
from naslab.runs.extras import missing
from naslab.runs.server_storage import (
    check_server,
    server_arguments,
    tell_who_is_away,
    was_made_meanwhile,
    with_driver,
)
from naslab.runs.sqlite_storage import check_sqlite, keep_apart, sqlite_arguments
from naslab.runs.storage_url import SQLITE, shown, without_secrets

MEETING_SECONDS = 0.5
"""About so long until another process that makes the same storage has come further."""
MEETINGS = 10


def connect(url: str, create: bool) -> BaseStorage:
    """The storage at `url`.

    Raises:
        InputError: it cannot be reached or read, is not an Optuna storage, or is missing and not to be created.
    """
    with storage_errors(url):
        try:
            return _sqlite(url, create) if url.startswith(SQLITE) else _server(url, create)
        except ImportError as error:
            package = getattr(error.__cause__ or error.__context__ or error, "name", None) or "its driver"
            if url.startswith("postgres"):
                raise missing(shown(url), "postgresql", package) from None
            raise InputError(f"{shown(url)}: the Python package {package} reads such a storage; install it") from None
        except sqlalchemy.exc.NoSuchModuleError as error:
            raise InputError(f"{shown(url)}: not a storage that can be opened: {_first_line(error, url)}") from None
        except (sqlalchemy.exc.ArgumentError, ValueError, TypeError):  # they quote what they cannot read
            raise InputError(
                f"{shown(url)}: not a storage URL; write postgresql://USER:PASSWORD@HOST/DATABASE, with %40 for @ in "
                "the password, %2F for a /, %3A for a : and so on; or the path of a file"
            ) from None


def _sqlite(url: str, create: bool) -> BaseStorage:
    path = Path(url.removeprefix(SQLITE))
    check_sqlite(path, create)
    made = _made_or_found(url, sqlite_arguments(path))
    if create:
        keep_apart(made.engine, path)
    return optuna.storages.get_storage(made)


def _server(url: str, create: bool) -> BaseStorage:
    found = with_driver(url)
    options = server_arguments(found)
    probe = sqlalchemy.create_engine(found, **options)
    tell_who_is_away(probe, url)
    try:
        check_server(probe, url, create)
    finally:
        probe.dispose()
    made = _made_or_found(found, options)
    tell_who_is_away(made.engine, url)
    return optuna.storages.get_storage(made)


def _made_or_found(url: str, options: dict[str, Any]) -> optuna.storages.RDBStorage:
    """Processes that make a storage at the same time meet in its tables; the later ones then find them made."""
    literal = url.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
    for meeting in range(MEETINGS + 1):
        try:
            return optuna.storages.RDBStorage(literal, engine_kwargs=dict(options))
        except sqlalchemy.exc.DBAPIError as error:
            if meeting == MEETINGS or not was_made_meanwhile(error):
                raise
        time.sleep(MEETING_SECONDS * random.uniform(0.5, 1.5))
    raise AssertionError("the last meeting returns or raises")


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn a full disk, a missing permission or a lost server into one line that names the storage."""
    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        what = _attempted(cause)
        rest = "; nothing is lost" if what == "written" else ""
        raise InputError(f"{shown(url)}: the storage cannot be {what}: {_first_line(cause, url)}{rest}") from None


def _attempted(error: BaseException) -> str:
    """What a database was asked for when it failed; it may have failed before that."""
    statement = str(getattr(error, "statement", None) or "").lstrip().upper()
    if not statement:
        return "used"
    return "read" if statement.startswith(("SELECT", "PRAGMA", "WITH")) else "written"


def _first_line(error: BaseException, url: str) -> str:
    """What a database's driver says, without what must not be printed."""
    text = without_secrets(str(error).strip(), url)
    return text.splitlines()[0] if text else type(error).__name__
