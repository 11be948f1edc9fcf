"""The ledger: a study's Optuna storage, read as Trials. Only the driver writes to it.

One Optuna trial per attempt at a job (optuna_record.py says in which Optuna study, and with which values). Its
parameters are the configuration's, so that optuna-dashboard shows them; what happened stands in two user attributes,
`job` when it starts and `outcome` when it ends.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from naslab.errors import InputError
from naslab.nas.quiet import optuna_warns_only
from naslab.runs import optuna_record
from naslab.runs.growth import check_readable, check_same, recorded_configuration, widen_distributions
from naslab.runs.judge import Judgement, read_judgement
from naslab.runs.lease import Lease, engine_of, sessions_of
from naslab.runs.optuna_record import ASIDE
from naslab.runs.patience import Patience
from naslab.runs.place import files_of, files_to_record, finish_move
from naslab.runs.records import DELETING, DONE, JUDGED, OUTCOME, Record, find_trial, read_judgements, read_records
from naslab.runs.sqlite_storage import settle
from naslab.runs.storage import connect, storage_errors
from naslab.runs.storage_url import SQLITE, no_study, shown, storage_url
from naslab.runs.study import Study, parse_study
from naslab.runs.trial import Job, Outcome, RungRecord, State, Trial
from naslab.search_spaces import SearchSpace

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "naslab.ledger/1"
T = TypeVar("T")


class Ledger:
    """One study's records. Open it with `Ledger.open` to read, `Ledger.start` to run."""

    def __init__(self, storage: BaseStorage, url: str, study: Study) -> None:
        self._storage = storage
        self.url = url
        self.study = study
        self.space: SearchSpace = study.search_space
        self._ids: tuple[int, int] | None = None
        self._read: dict[int, Trial] = {}
        """Trials that have ended, by Optuna's id: they change no more."""
        self._held: dict[int, Trial] | None = None
        """Every trial by Optuna's id while this process alone writes them."""
        self.patience = Patience()
        """With a storage that is away: a driver has some."""

    @classmethod
    def open(cls, storage: str | None, name: str) -> Ledger:
        """The ledger of the study called `name`, for reading.

        Raises:
            InputError: no such storage or study, or one that naslab did not make.
        """
        url = storage_url(storage)
        backend = connect(url, create=False)
        with storage_errors(url):
            found = _studies(backend)
        if name not in found:
            raise no_study(url, name, [known for known in found if not known.endswith(ASIDE)])
        return cls(backend, url, _recorded_study(backend, url, found[name], name))

    @classmethod
    def start(cls, storage: str | None, study: Study) -> Ledger:
        """The ledger of `study`, which is new, or goes on where it stands; nothing is written before `hold`.

        Raises:
            InputError: the storage cannot be used, or holds another study of that name.
        """
        study.check_arms()
        study.check_packages()
        url = storage_url(storage)
        ledger = cls(connect(url, create=True), url, study)
        with storage_errors(url):
            ledger._check_recorded()
        return ledger

    @contextmanager
    def hold(self, slots: int) -> Iterator[Lease]:
        """Be the study's only driver while inside; the study is made, or its file's new wording recorded.

        Raises:
            InputError: another driver holds it, or the study changed in what may not change.
        """
        try:
            with storage_errors(self.url), Lease(self._storage, self.study.name, slots, self.patience) as lease:
                self._ask(lambda again: self._record_study())
                self._held = self._all()
                yield lease
        finally:
            self._held = None
            if self.url.startswith(SQLITE):
                settle(engine_of(self._storage))

    @property
    def files(self) -> Path:
        """The study's own folder: where its storage says, or else where it would be made."""
        return self._ask(lambda again: files_of(self._storage, self.url, self.study.name))

    def attribute(self, name: str) -> Any:
        """What is recorded with the study under `name`; None if nothing is."""

        def read(again: bool) -> Any:
            found = _studies(self._storage).get(self.study.name)
            return None if found is None else self._storage.get_study_user_attrs(found).get(name)

        return self._ask(read)

    def set_attribute(self, name: str, value: Any) -> None:
        """Record plain values with the study."""
        self._writable()
        self._ask(lambda again: self._storage.set_study_user_attr(self._homes()[0], name, value))

    def mark_done(self) -> None:
        """Say that the study needs nothing more; whoever holds it next finds out anew."""
        self.set_attribute("naslab", {**self.attribute("naslab"), DONE: True})

    def name_metric(self, metric: str) -> None:
        """Say what the values of both Optuna studies are called."""

        def name(again: bool) -> None:
            num_values = len(self._storage.get_study_directions(self._homes()[0]))
            names = optuna_record.metric_names(self.study, metric, num_values)
            optuna.load_study(study_name=self.study.name, storage=self._storage).set_metric_names(names)
            optuna.load_study(study_name=self.study.name + ASIDE, storage=self._storage).set_metric_names([metric])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._ask(name)

    def begin(self, job: Job) -> tuple[int, int]:
        """Record that an attempt at `job` runs; its Optuna trial id and its number."""
        held = self._writable()
        number = len(held)
        home = self._homes()[0 if optuna_record.is_searched(self.study, job) else 1]
        template = optuna_record.template(self.study, job, number)

        def create(again: bool) -> int:
            found = find_trial(self._storage, home, number) if again else None
            return self._storage.create_new_trial(home, template) if found is None else found

        trial_id = self._ask(create)
        held[trial_id] = Trial(number, job, "running")
        return trial_id, number

    def rung(self, trial_id: int, epoch: int, score: float) -> None:
        """Record a running trial's metric at a rung."""
        self._ask(lambda again: self._storage.set_trial_intermediate_value(trial_id, epoch, score))

    def judge(self, trial_id: int, judgements: Sequence[Judgement]) -> None:
        """Record what was decided of a running trial at its rungs."""
        facts = [judgement.to_dict() for judgement in judgements]
        self._ask(lambda again: self._storage.set_trial_user_attr(trial_id, JUDGED, facts))

    def judgements(self) -> list[Judgement]:
        """What was decided at rungs, of every attempt."""
        found = self._ask(lambda again: read_judgements(self._storage, self._found_homes()))
        return [read_judgement(facts) for facts in found]

    def finish(self, trial_id: int, state: State, outcome: Mapping[str, Any]) -> Trial:
        """Record how an attempt ended. The outcome is written before the state that makes it final."""
        held = self._writable()
        running, told = held[trial_id], {**outcome, "state": state}
        trial = _ended(running.number, running.job, told)

        def record(again: bool) -> None:
            with suppress(*([UpdateFinishedTrialError] if again else [])):  # its end was written before the answer went
                self._storage.set_trial_user_attr(trial_id, OUTCOME, told)
                num_values = len(self._storage.get_study_directions(self._homes()[0]))
                self._storage.set_trial_state_values(trial_id, *optuna_record.end(self.study, trial, num_values))

        self._ask(record)
        held[trial_id] = trial
        return trial

    def running(self) -> list[tuple[int, Trial, Mapping[str, Any] | None]]:
        """Attempts without an end, with their Optuna ids; and the outcome of those whose driver died just after it."""
        return [
            (record.trial_id, self._trial(record), record.outcome)
            for record in sorted(self._records(), key=lambda record: record.number)
            if not record.has_ended
        ]

    def trials(self) -> list[Trial]:
        """Every attempt, in the order in which they began."""
        return list((self._all() if self._held is None else self._held).values())

    def sessions(self) -> list[dict[str, float]]:
        """Drivers that ran this study: `started`, `seen` (last sign of life), both in Unix seconds, and `slots`."""

        def read(again: bool) -> list[dict[str, float]]:
            found = _studies(self._storage).get(self.study.name)
            early = [] if found is None else self._storage.get_study_user_attrs(found).get("sessions", [])
            return [*early, *sessions_of(self._storage, self.study.name)]

        return self._ask(read)

    def frame(self) -> pd.DataFrame:
        """One row per attempt: number, role, arm, state, seed, seconds by phase, scores, parameters."""
        import pandas as pd  # drivers and workers do without

        rows = []
        for trial in self.trials():
            row: dict[str, Any] = {
                "number": trial.number,
                "key": trial.job.key,
                "role": trial.job.role,
                "arm": trial.job.arm,
                "state": trial.state,
                "seed": trial.job.seed,
                "device": trial.device,
                "device_share": trial.device_share,
                "device_seconds": trial.device_seconds,
                "wall_seconds": trial.wall_seconds,
                "error": trial.error,
            }
            row.update({f"seconds_{phase}": seconds for phase, seconds in trial.seconds.items()})
            row.update(trial.scores)
            if trial.job.configuration is not None:
                row.update({f"parameter_{name}": value for name, value in trial.job.configuration.items()})
            rows.append(row)
        return pd.DataFrame(rows)

    def _homes(self) -> tuple[int, int]:
        """Ids of the two Optuna studies: of what was searched, and of everything else."""
        if self._ids is None:
            found = _studies(self._storage)
            self._ids = found[self.study.name], found.get(self.study.name + ASIDE, -1)
        return self._ids

    def _found_homes(self) -> list[int]:
        found = _studies(self._storage)
        return [found[name] for name in (self.study.name, self.study.name + ASIDE) if name in found]

    def _records(self) -> list[Record]:
        """Attempts that were not known to have ended."""
        return self._ask(lambda again: read_records(self._storage, self._found_homes(), self._read))

    def _all(self) -> dict[int, Trial]:
        """Every trial by Optuna's id, in the order in which they began."""
        new = {record.trial_id: self._trial(record) for record in self._records()}
        return dict(sorted({**self._read, **new}.items(), key=lambda one: one[1].number))

    def _trial(self, record: Record) -> Trial:
        job = self._job(record.job)
        if record.outcome is None or not record.has_ended:
            return Trial(record.number, job, "running")
        return self._read.setdefault(record.trial_id, _ended(record.number, job, record.outcome))

    def _job(self, stored: Mapping[str, Any]) -> Job:
        facts = {name: value for name, value in stored.items() if name != "informed_by"}
        values = facts.pop("configuration")
        return Job(
            **{
                **facts,
                "pending": tuple(facts.get("pending", ())),
                "configuration": None if values is None else recorded_configuration(self.space.name, values),
            }
        )

    def _ask(self, action: Callable[[bool], T]) -> T:
        """What `action` gets from the storage, with patience; it is told whether it was asked before."""
        with storage_errors(self.url):
            return self.patience(action)

    def _writable(self) -> dict[int, Trial]:
        if self._held is None:
            raise RuntimeError("only the driver that holds the study writes to it: use Ledger.hold")
        return self._held

    def _check_recorded(self) -> bool:
        """Whether the study is in the storage; refuses one that is another."""
        found = _studies(self._storage)
        if self.study.name not in found:
            return False
        if not _half_made(self._storage, found[self.study.name], self.study.name):
            trials = self._all().values()
            recorded = _recorded_study(self._storage, self.url, found[self.study.name], self.study.name)
            check_same(recorded, self.study, {trial.job.arm for trial in trials})
            check_readable(self.study, trials)
        return True

    def _record_study(self) -> None:
        exists = self._check_recorded()
        finish_move(self._storage, self.url, self.study.name)
        searched, aside = self.study.name, self.study.name + ASIDE
        names = {searched: optuna_record.directions(self.study), aside: [StudyDirection.MAXIMIZE]}
        known = _studies(self._storage)
        for name, directions in names.items():
            if name not in known:
                with optuna_warns_only(), suppress(DuplicatedStudyError):  # made before the answer went
                    self._storage.create_new_study(directions, name)
        attribute = {"schema": SCHEMA, "study": self.study.document(), "digest": self.study.digest}
        if (files := files_to_record(self._storage, self.url, self.study.name)) is not None:
            attribute["files"] = str(files)
        self._storage.set_study_user_attr(self._homes()[0], "naslab", attribute)
        if exists:
            widen_distributions(self._storage, self.study, self._homes())


def _studies(storage: BaseStorage) -> dict[str, int]:
    return {study.study_name: study._study_id for study in storage.get_all_studies()}


def _ended(number: int, job: Job, outcome: Mapping[str, Any]) -> Trial:
    return Trial(
        number=number,
        job=job,
        rungs=tuple(RungRecord(**rung) for rung in outcome.get("rungs", ())),
        **{one.name: outcome[one.name] for one in fields(Outcome) if one.name in outcome},
    )


def _half_made(storage: BaseStorage, study_id: int, name: str) -> bool:
    """Whether a driver of ours died between making the Optuna study and saying whose it is."""
    return storage.get_study_user_attrs(study_id).get("naslab") is None and bool(sessions_of(storage, name))


def _recorded_study(storage: BaseStorage, url: str, study_id: int, name: str) -> Study:
    with storage_errors(url):
        attribute = storage.get_study_user_attrs(study_id).get("naslab")
    if attribute is None and name.endswith(ASIDE):
        raise InputError(f"{shown(url)}: {name!r} is a part of study {name.removesuffix(ASIDE)!r}; name that")
    if attribute is None:
        raise InputError(f"{shown(url)}: study {name!r} was not made by naslab; choose another name or --storage")
    if attribute.get(DELETING):
        raise InputError(
            f"{shown(url)}: study {name!r} is being deleted; naslab studies delete {name} --yes completes it"
        )
    if attribute.get("schema") != SCHEMA:
        raise InputError(
            f"{shown(url)}: study {name!r} has schema {attribute.get('schema')!r}; this version reads {SCHEMA!r}"
        )
    return parse_study(attribute["study"], f"{shown(url)}, study {name!r}", recorded=True)
