"""Storages that two processes make at the same time."""

import optuna
import pytest
import sqlalchemy.exc

from naslab.errors import InputError
from naslab.runs import storage


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
    url = storage.storage_url(str(tmp_path / "new.db"))
    if times < 3:
        assert storage.connect(url, create=True).get_all_studies() == []
    else:
        with pytest.raises(InputError, match="the storage cannot be used"):
            storage.connect(url, create=True)
