"""Storages: from what a user writes to an Optuna storage, and storage trouble in one line each."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.storages._rdb.models import BaseModel

from naslab.errors import InputError

DEFAULT_STORAGE = "naslab-runs/naslab.db"
SQLITE = "sqlite:///"
LOCK_SECONDS = 60.0
OPTUNA_TABLES = {*BaseModel.metadata.tables, "alembic_version"}
MEETING_SECONDS = 0.5
"""Until another process that makes the same storage has come further."""


def storage_url(text: str | None) -> str:
    """A URL as it is; anything else is the path of an SQLite file."""
    text = text or DEFAULT_STORAGE
    return text if "://" in text else f"{SQLITE}{text}"


_PASSWORD = re.compile(r"(?s)(?<=://)([^:/@]*):(.*)@")
"""As SQLAlchemy reads a URL: everything between the first colon and an @, whatever stands in it."""
_NAMED = re.compile(r"(?i)([?&][^=&]*(?:pass|pwd|secret|token|key|auth|cred|options)[^=&]*=)([^&#\s]*)")


def shown(url: str) -> str:
    """The URL as it may be printed: without a password."""
    return _NAMED.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))


def _secrets(url: str) -> list[str]:
    """What must not be printed, the longest first: as it stands in the URL, and as a driver would decode it."""
    found = [match[2] for pattern in (_PASSWORD, _NAMED) for match in pattern.finditer(url)]
    return sorted({secret for raw in found for secret in (raw, unquote(raw)) if len(secret) > 2}, key=len, reverse=True)


def runs_folder(url: str) -> Path:
    """Where the files of a new study lie: beside an SQLite file, else in ./naslab-runs."""
    return Path(url.removeprefix(SQLITE)).parent if url.startswith(SQLITE) else Path("naslab-runs")


def connect(url: str, create: bool) -> BaseStorage:
    """The storage at `url`.

    Raises:
        InputError: it cannot be reached or read, is not an Optuna storage, or is missing and not to be created.
    """
    if url.startswith(SQLITE):
        _check_sqlite(Path(url.removeprefix(SQLITE)), create)
    with storage_errors(url):
        try:
            # SQLite lets one connection write at a time; the others wait for their turn.
            options = {"connect_args": {"timeout": LOCK_SECONDS}} if url.startswith(SQLITE) else {}
            return optuna.storages.get_storage(_made_or_found(url, options))
        except ImportError as error:
            missing = getattr(error.__cause__ or error.__context__, "name", None) or "its driver"
            raise InputError(f"{shown(url)}: the Python package {missing} reads such a storage; install it") from None
        except (sqlalchemy.exc.ArgumentError, ValueError) as error:
            raise InputError(f"{shown(url)}: not a storage that can be opened: {_first_line(error, url)}") from None


def _made_or_found(url: str, options: dict[str, Any]) -> optuna.storages.RDBStorage:
    """Two processes that make a storage at the same time meet in its tables; the later one then finds them made."""
    for _ in range(2):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except sqlalchemy.exc.DBAPIError as error:
            if not (isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error.orig)):
                raise
        time.sleep(MEETING_SECONDS)
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def _check_sqlite(path: Path, create: bool) -> None:
    """Optuna would add its tables to any SQLite file, so whose file it is has to be known before."""
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if create:
                return
            raise InputError(f"{path}: no such storage; `naslab run STUDY.yaml` makes it, --storage names another")
        if path.is_dir():
            raise InputError(f"{path}: a folder; choose another --storage, such as {path / 'naslab.db'}")
        if path.stat().st_size == 0:
            return
        # For writing, too: whoever was killed within a commit left a journal, which the next one has to roll back.
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=LOCK_SECONDS)
        try:
            tables = {row[0] for row in connection.execute("select name from sqlite_master where type='table'")}
            if "version_info" in tables:
                connection.execute("select schema_version from version_info")
            # Whoever makes a storage may be killed after some of its tables, this one first: the next makes the rest.
            half_made = tables <= OPTUNA_TABLES and bool(connection.execute("select study_id, study_name from studies"))
        finally:
            connection.close()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; choose another --storage") from None
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path}: not a naslab storage ({error}); choose another --storage") from None
    if not (half_made or {"studies", "trials", "version_info"} <= tables):
        raise InputError(f"{path}: an SQLite file of something else, not a naslab storage; choose another --storage")


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
    """What a database's driver says; some repeat the URL, or parts of it."""
    text = str(error).strip().replace(url, shown(url))
    for secret in _secrets(url):
        text = text.replace(secret, "***")
    return text.splitlines()[0] if text else type(error).__name__
