"""Storages that two processes make at the same time, and storages that fail."""

import optuna
import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from naslab.errors import InputError
from naslab.runs import storage
from naslab.runs.ledger import Ledger
from naslab.runs.storage import storage_errors
from naslab.runs.storage_url import storage_url
from naslab.runs.study import load_study


@pytest.mark.parametrize(
    "met",
    [
        sqlalchemy.exc.IntegrityError("insert", {}, Exception("UNIQUE constraint failed: alembic_version.version_num")),
        sqlalchemy.exc.OperationalError("create", {}, Exception("table studies already exists")),
    ],
)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_storage_that_another_process_makes_meanwhile_is_found(met, times, tmp_path, monkeypatch):
    left = [met] * times

    class Met(optuna.storages.RDBStorage):
        def __init__(self, *arguments, **options):
            if left:
                raise left.pop()
            super().__init__(*arguments, **options)

    monkeypatch.setattr(optuna.storages, "RDBStorage", Met)
    monkeypatch.setattr(storage, "MEETING_SECONDS", 0)
    monkeypatch.setattr(storage, "MEETINGS", 2)
    url = storage_url(str(tmp_path / "new.db"))
    if times < 3:
        assert storage.connect(url, create=True).get_all_studies() == []
    else:
        with pytest.raises(InputError, match="the storage cannot be written"):
            storage.connect(url, create=True)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("select * from nothing", "cannot be read: "),
        ("update nothing set x = 1", "cannot be written: .*; nothing is lost"),
        (None, "cannot be used: "),
    ],
)
def test_a_storage_that_fails_says_what_was_asked_of_it(statement, words):
    error = sqlalchemy.exc.OperationalError(statement, {}, Exception("disk I/O error"))
    for raised in (error, caused(StorageInternalError("no more"), error)):
        with pytest.raises(InputError, match=f"^lab.db: the storage {words}") as caught, storage_errors("lab.db"):
            raise raised
        assert "disk I/O error" in str(caught.value)


def caused(error, cause):
    error.__cause__ = cause
    return error


def test_a_damaged_storage_cannot_be_read(toy_file):
    study = load_study(toy_file(arms=[]))
    with Ledger.start("runs.db", study).hold(1):
        pass
    with open("runs.db", "r+b") as file:
        size = file.seek(0, 2)
        file.seek(8192)
        file.write(bytes(size - 8192))
    with pytest.raises(InputError, match=r"cannot be read|not a naslab storage"):
        Ledger.open("runs.db", "toy").trials()
