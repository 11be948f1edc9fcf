"""Where a study's files are: beside an SQLite file; for a server's database, in the folder recorded there.

The first study of a database is made in ./naslab-runs, and says so in its record; later ones find their place beside
it, whatever folder or machine they run from. Where that folder is mounted under another name, NASLAB_RUNS names it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from naslab.errors import InputError
from naslab.runs.storage_url import SQLITE

RUNS_VARIABLE = "NASLAB_RUNS"
RUNS_FOLDER = Path("naslab-runs")
MOVED_FROM = "moved_from"
"""Of the record of a study that was renamed: how its folder was called, until it has moved."""


def runs_folder(url: str) -> Path:
    """Where the files of new studies lie, as far as the URL and the environment tell."""
    if given := os.environ.get(RUNS_VARIABLE):
        return Path(given)
    return Path(url.removeprefix(SQLITE)).parent if url.startswith(SQLITE) else RUNS_FOLDER


def files_of(storage: BaseStorage, url: str, name: str) -> Path:
    """The folder of the study called `name`: where its storage says, or else where it would be made."""
    if os.environ.get(RUNS_VARIABLE) or url.startswith(SQLITE):
        return runs_folder(url) / name
    known = _recorded(storage)
    if name in known:
        return known[name]
    return next((files.parent for files in known.values()), RUNS_FOLDER) / name


def files_to_record(storage: BaseStorage, url: str, name: str) -> Path | None:
    """What the record of a study says of its folder; None where the storage's own place says it.

    What was said once stays: NASLAB_RUNS is how this machine sees the folder.
    """
    if url.startswith(SQLITE):
        return None
    return _recorded(storage).get(name) or files_of(storage, url, name).resolve()


def finish_move(storage: BaseStorage, url: str, name: str) -> None:
    """Move the files of a study that was renamed, if that is still to be done.

    Raises:
        InputError: they cannot be moved.
    """
    found = next((one for one in storage.get_all_studies() if one.study_name == name), None)
    record = {} if found is None else found.user_attrs.get("naslab", {})
    if found is None or MOVED_FROM not in record:
        return
    files = files_of(storage, url, name)
    before = files.with_name(record[MOVED_FROM])
    try:
        with suppress(FileNotFoundError):  # moved before, or never made
            os.rename(before, files)
    except OSError as error:
        raise InputError(
            f"{before}: cannot be moved to {files}: {error.strerror}; run the same command again"
        ) from None
    storage.set_study_user_attr(found._study_id, "naslab", {k: v for k, v in record.items() if k != MOVED_FROM})


def _recorded(storage: BaseStorage) -> dict[str, Path]:
    """The folder of each study that names one, the oldest study first."""
    found: dict[str, Any] = {one.study_name: one.user_attrs.get("naslab", {}) for one in storage.get_all_studies()}
    return {name: Path(facts["files"]) for name, facts in found.items() if "files" in facts}
