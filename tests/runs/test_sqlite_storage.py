"""SQLite files: a write-ahead log where one can be had, and what happens where it cannot."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from inline import TOY

from naslab.runs import sqlite_storage
from naslab.runs.ledger import Ledger
from naslab.runs.sqlite_storage import is_on_network, set_journal
from naslab.runs.study import parse_study


def make(path):
    with Ledger.start(str(path), parse_study({**TOY, "arms": []}, "test")).hold(1):
        pass


def journal(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("pragma journal_mode").fetchone()[0]


def test_a_storage_has_a_write_ahead_log_and_an_old_one_gets_it(tmp_path):
    make(tmp_path / "lab.db")
    assert journal(tmp_path / "lab.db") == "wal"
    with closing(sqlite3.connect(tmp_path / "lab.db")) as connection:
        assert set_journal(connection, "delete") == "delete"
    make(tmp_path / "lab.db")
    assert journal(tmp_path / "lab.db") == "wal"


def test_on_a_network_file_system_it_keeps_the_rollback_journal(tmp_path, monkeypatch):
    make(tmp_path / "lab.db")
    monkeypatch.setattr(sqlite_storage, "is_on_network", lambda path: True)
    make(tmp_path / "lab.db")
    assert journal(tmp_path / "lab.db") == "delete"
    assert Ledger.open(str(tmp_path / "lab.db"), "toy").trials() == []


def test_a_file_system_that_shares_no_memory_keeps_what_it_has(tmp_path):
    """SQLite's own access layer for file systems without POSIX locks has no shared memory."""
    place = f"{(tmp_path / 'lab.db').as_uri()}?vfs=unix-dotfile"
    with closing(sqlite3.connect(place, uri=True)) as connection:
        assert set_journal(connection, "wal") == "delete"


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("1 0 0:1 / / rw - ext4 /dev/a rw", False),
        ("1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {} rw - nfs4 host:/x rw", True),
        ("1 0 0:1 / / rw - nfs host:/ rw\n2 1 0:2 / {} rw shared:1 - tmpfs none rw", False),
        ("1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {}2 rw - nfs4 host:/x rw", False),
    ],
)
def test_the_deepest_mount_point_decides(tmp_path, monkeypatch, mounts, expected):
    text = mounts.format(str(tmp_path.resolve()).replace(" ", r"\040"))
    monkeypatch.setattr(Path, "read_text", lambda self, **_: text)
    assert is_on_network(tmp_path / "lab.db") is expected


def test_a_file_in_a_folder_that_takes_no_files_is_read(tmp_path, monkeypatch):
    make(tmp_path / "lab.db")
    assert [path.name for path in tmp_path.iterdir()] == ["lab.db"], "a study that has ended is one file"
    monkeypatch.setattr(sqlite_storage, "_is_still", lambda path: path.exists())
    assert Ledger.open(str(tmp_path / "lab.db"), "toy").trials() == []
    assert [path.name for path in tmp_path.iterdir()] == ["lab.db"]
