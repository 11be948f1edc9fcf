"""SQLite files as storages: whether a file is naslab's, and how readers and the writer avoid blocking each other.

With a write-ahead log (WAL) readers never block the driver. Its index lies in memory that the processes of one machine
share, so on a network file system the file keeps SQLite's rollback journal.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from optuna.storages._rdb.models import BaseModel
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from naslab.errors import InputError

OPTUNA_TABLES = {*BaseModel.metadata.tables, "alembic_version"}
LOCK_SECONDS = 60.0
"""SQLite lets one connection write at a time; the others wait for their turn."""
NETWORK = frozenset(
    "9p afs beegfs ceph cifs fuse.glusterfs fuse.sshfs fuse.ceph gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 panfs "
    "pvfs2 smb2 smb3 smbfs wekafs".split()
)
"""Types of file systems that other machines may write to."""


def check_sqlite(path: Path, create: bool) -> None:
    """Optuna would add its tables to any SQLite file, so whose file it is has to be known before.

    Raises:
        InputError: it is missing and not to be created, cannot be used, or is something else's.
    """
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
        with closing(sqlite3.connect(_existing(path), uri=True, timeout=LOCK_SECONDS)) as connection:
            tables = {row[0] for row in connection.execute("select name from sqlite_master where type='table'")}
            if "version_info" in tables:
                connection.execute("select schema_version from version_info")
            # Whoever makes a storage may be killed after some of its tables, this one first: the next makes the rest.
            half_made = tables <= OPTUNA_TABLES and bool(connection.execute("select study_id, study_name from studies"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; choose another --storage") from None
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path}: not a naslab storage ({error}); choose another --storage") from None
    if not half_made and not {"studies", "trials", "version_info"} <= tables:
        raise InputError(f"{path}: an SQLite file of something else, not a naslab storage; choose another --storage")


def sqlite_arguments(path: Path) -> dict[str, Any]:
    """Of the engine: how connections to the file are opened."""
    if not _is_still(path):
        return {"connect_args": {"timeout": LOCK_SECONDS}}
    return {"creator": lambda: sqlite3.connect(_existing(path), uri=True, check_same_thread=False)}


def keep_apart(engine: Engine, path: Path) -> None:
    """Give the file a write-ahead log, which it then keeps, unless other machines may write to it."""
    engine.dispose()  # its own connections would keep the file from changing
    mode = "delete" if is_on_network(path) else "wal"
    # So does whoever works with the file at this very moment; the next driver tries again.
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, timeout=1.0)) as connection:
        set_journal(connection, mode)


def settle(engine: Engine) -> None:
    """Bring what the log holds into the file, as far as no reader is in the way, and let go of both."""
    with suppress(SQLAlchemyError), engine.connect() as connection:
        connection.exec_driver_sql("pragma wal_checkpoint(passive)")
    engine.dispose()


def set_journal(connection: sqlite3.Connection, mode: str) -> str:
    """Ask for a journal mode; the mode that it is now, which is another one where the file system has no means."""
    now: str = connection.execute("pragma journal_mode").fetchone()[0]
    return now if now == mode else str(connection.execute(f"pragma journal_mode={mode}").fetchone()[0])


def is_on_network(path: Path) -> bool:
    """Whether the file lies where other machines may write to it; False where it cannot be known."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    place = str(path.resolve())
    found = ("", "")
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found[0]):  # of two on one point the later one hides the other
            found = (point, after.split()[0])
    return found[1] in NETWORK


def _existing(path: Path) -> str:
    """A URI that makes no file.

    It may write where it can: whoever was killed within a commit left a journal, which the next one has to roll back.
    """
    return f"{path.resolve().as_uri()}?{'immutable=1' if _is_still(path) else 'mode=rw'}"


def _is_still(path: Path) -> bool:
    """Whether nobody can write the file: it lies in a folder that takes no files, a log's index among them."""
    return path.exists() and not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
