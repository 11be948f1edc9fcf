"""All studies of a storage: their states, renaming and deleting.

Renaming and deleting change files and records, which no single commit spans. Each first writes down what it is about,
so that whoever is killed in between leaves a study that says so, and the same command goes on.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from naslab.errors import InputError
from naslab.nas.names import check_name
from naslab.runs.erasure import erase_studies, rename_studies
from naslab.runs.lease import Lease, Session, last_sessions
from naslab.runs.optuna_record import ASIDE
from naslab.runs.place import MOVED_FROM, files_of, finish_move
from naslab.runs.records import DELETING, DONE, read_records
from naslab.runs.spend import hours
from naslab.runs.storage import connect, storage_errors
from naslab.runs.storage_url import no_study, shown, storage_url

Standing: TypeAlias = Literal["running", "done", "stopped", "being deleted"]
"""`done`: its driver found nothing left to do; `stopped`: interrupted, died, or at the end of its budget."""


@dataclass(frozen=True)
class Overview:
    """Where a study stands."""

    name: str
    state: Standing
    trials: Mapping[str, int]
    """By state."""
    device_hours: float
    """Charged to trials that have ended."""
    last_seen: float | None
    """Last sign of life of a driver, in Unix seconds."""
    driver: Mapping[str, Any] | None
    """The process that holds it: `pid`, `host` and `slots`."""
    files: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the published schema."""
        seen = None if self.last_seen is None else datetime.fromtimestamp(self.last_seen, UTC)
        return {
            "name": self.name,
            "state": self.state,
            "trials": dict(self.trials),
            "device_hours": self.device_hours,
            "last_seen": None if seen is None else seen.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "driver": None if self.driver is None else dict(self.driver),
            "files": str(self.files),
        }


def list_studies(storage: str | None) -> list[Overview]:
    """Every study of the storage, by name.

    Raises:
        InputError: there is no such storage.
    """
    shelf = _Shelf(storage)
    with storage_errors(shelf.url):
        return [shelf.overview(name) for name in shelf.names()]


def rename_study(storage: str | None, old: str, new: str) -> list[str]:
    """Give a study another name, in its records and on the disk; what else names it, in words.

    Raises:
        InputError: no study `old`, a driver works on it, or `new` is taken or no name.
    """
    shelf = _Shelf(storage)
    check_name(new)
    with storage_errors(shelf.url):
        if old not in shelf.names() and shelf.attribute(new).get(MOVED_FROM) == old:
            finish_move(shelf.backend, shelf.url, new)
            return shelf.mentions(old)
        shelf.check_known(old)
        files, target = shelf.files(old), shelf.files(old).with_name(new)
        if new in shelf.names() or target.exists():
            raise InputError(
                f"{new!r} is taken: {target if target.exists() else shown(shelf.url)}; choose another name"
            )
        if new in shelf.sessions and shelf.sessions[new].is_alive:
            raise InputError(f"{new!r} is taken: a driver begins a study of this name; choose another name")
        record = _renamed(shelf.attribute(old), files, new)
        with Lease(shelf.backend, old, 0) as lease:
            rename_studies(shelf.backend, {old: new, old + ASIDE: new + ASIDE}, record)
            lease.leave_nothing()
        finish_move(shelf.backend, shelf.url, new)
        return shelf.mentions(old)


def delete_study(storage: str | None, name: str) -> list[str]:
    """Remove a study's files and records for good; what else names it, in words.

    Raises:
        InputError: no such study, a driver works on it, or its files cannot be removed.
    """
    shelf = _Shelf(storage)
    with storage_errors(shelf.url):
        if name not in shelf.sessions:
            shelf.check_known(name)
        with Lease(shelf.backend, name, 0) as lease:
            if name in shelf.names():
                shelf.note(name, **{DELETING: True})
                _remove(shelf.files(name))
                erase_studies(shelf.backend, shelf.ids(name))
            lease.leave_nothing()
        return shelf.mentions(name)


class _Shelf:
    """The studies of a storage as they are recorded, whether or not their spaces can be imported here."""

    def __init__(self, storage: str | None) -> None:
        self.url = storage_url(storage)
        self.backend = connect(self.url, create=False)
        with storage_errors(self.url):
            self.sessions: dict[str, Session] = last_sessions(self.backend)

    def names(self) -> list[str]:
        known = {one.study_name: one.user_attrs for one in self.backend.get_all_studies()}
        return sorted(name for name in known if not name.endswith(ASIDE) and self._is_ours(name, known[name]))

    def _is_ours(self, name: str, attributes: Mapping[str, Any]) -> bool:
        return "naslab" in attributes or name in self.sessions

    def check_known(self, name: str) -> None:
        if name not in (known := self.names()):
            raise no_study(self.url, name, known)

    def ids(self, name: str) -> list[int]:
        homes = (name, name + ASIDE)
        return [one._study_id for one in self.backend.get_all_studies() if one.study_name in homes]

    def attribute(self, name: str) -> dict[str, Any]:
        found = [one.user_attrs for one in self.backend.get_all_studies() if one.study_name == name]
        return dict(found[0].get("naslab", {})) if found else {}

    def note(self, name: str, **facts: Any) -> None:
        main = next(one._study_id for one in self.backend.get_all_studies() if one.study_name == name)
        self.backend.set_study_user_attr(main, "naslab", {**self.attribute(name), **facts})

    def files(self, name: str) -> Path:
        return files_of(self.backend, self.url, name)

    def overview(self, name: str) -> Overview:
        records = read_records(self.backend, self.ids(name))
        ends = [record.outcome for record in records if record.has_ended and record.outcome is not None]
        states = Counter(end["state"] for end in ends)
        states.update({"running": len(records) - len(ends)})
        session, attribute = self.sessions.get(name), self.attribute(name)
        held = session is not None and session.is_alive
        state: Standing = "running" if held else "done" if attribute.get(DONE) else "stopped"
        return Overview(
            name=name,
            state="being deleted" if attribute.get(DELETING) else state,
            trials={state: number for state, number in sorted(states.items()) if number},
            device_hours=hours(sum(end.get("seconds", {}).values()) for end in ends),
            last_seen=None if session is None else session.seen,
            driver=session.driver if held and session is not None else None,
            files=self.files(name),
        )

    def mentions(self, name: str) -> list[str]:
        """Where other studies name this one."""
        return [
            f"{other}: {key}"
            for other in self.names()
            if other != name
            for key, names in _names_in(self.attribute(other).get("study", {}))
            if name in names
        ]


def _names_in(document: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    for key in ("reuse", "beside"):
        yield key, document.get(key) or ()
    for arm in document.get("arms") or ():
        yield f"arm {arm['name']}, warm_start", arm.get("warm_start") or ()


def _renamed(attribute: dict[str, Any], files: Path, new: str) -> dict[str, Any]:
    """The study's record under its new name, which says that its files are still to be moved."""
    from naslab.runs.study import parse_study

    made = {**attribute, MOVED_FROM: files.name}
    if "study" in attribute:
        made["study"] = {**attribute["study"], "name": new}
        with suppress(InputError):  # of a version that this one does not read
            made["digest"] = parse_study(made["study"], new, recorded=True).digest
    if "files" in attribute:
        made["files"] = str(Path(attribute["files"]).with_name(new))
    return made


def _remove(files: Path) -> None:
    try:
        shutil.rmtree(files)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(
            f"{error.filename or files}: cannot be removed: {error.strerror}; run the same command again"
        ) from None
