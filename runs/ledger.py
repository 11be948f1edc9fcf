"""The ledger: a study's Optuna storage, read as Trials. Only the driver writes to it.

One Optuna trial per attempt at a job (optuna_record.py says in which Optuna study, and with which values). Its
parameters are the configuration's, so that optuna-dashboard shows them; what happened stands in two user attributes,
`job` when it starts and `outcome` when it ends.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
import pandas as pd
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from naslab.errors import InputError
from naslab.runs import optuna_record
from naslab.runs.optuna_record import ASIDE
from naslab.runs.storage import connect, runs_folder, storage_errors, storage_url
from naslab.runs.study import Study, parse_study
from naslab.runs.trial import Job, RungRecord, State, Trial
from naslab.search_spaces import SearchSpace

SCHEMA = "naslab.ledger/1"
GROWABLE = frozenset(
    {"description", "seeds", "arms", "finalists", "random_architectures", "ranking", "beside", "device"}
)
"""What may change between two runs of a study: more of something, or how results are read."""


class Ledger:
    """One study's records. Open it with `Ledger.open` to read, `Ledger.start` to run."""

    def __init__(self, storage: BaseStorage, url: str, study_id: int, aside_id: int | None, study: Study) -> None:
        self._storage = storage
        self._study_id, self._aside_id = study_id, aside_id
        self.url = url
        self.study = study
        self.space: SearchSpace = study.search_space
        self.files = runs_folder(url) / study.name
        self._begun: int | None = None

    @classmethod
    def open(cls, storage: str | None, name: str) -> Ledger:
        """The ledger of the study called `name`, for reading.

        Raises:
            InputError: no such storage or study, or one that naslab did not make.
        """
        url = storage_url(storage)
        backend = connect(url, create=False)
        with storage_errors(url):
            studies = {study.study_name: study._study_id for study in backend.get_all_studies()}
        if name not in studies:
            known = ", ".join(sorted(known for known in studies if not known.endswith(ASIDE))) or "none"
            raise InputError(f"{url}: no study named {name!r}; it has {known}")
        study = _recorded_study(backend, url, studies[name], name)
        return cls(backend, url, studies[name], studies.get(name + ASIDE), study)

    @classmethod
    def start(cls, storage: str | None, study: Study) -> Ledger:
        """The ledger of `study`, made if it is new, taken up where it stands if not.

        Raises:
            InputError: the storage cannot be used, or holds another study of that name.
        """
        _ = study.grids  # refuses points that the space does not have, before anything is written
        url = storage_url(storage)
        backend = connect(url, create=True)
        with storage_errors(url):
            try:
                study_id = backend.create_new_study(optuna_record.directions(study), study.name)
            except DuplicatedStudyError:
                study_id = backend.get_study_id_from_name(study.name)
                _check_same(_recorded_study(backend, url, study_id, study.name), study)
            attribute = {"schema": SCHEMA, "study": study.document(), "digest": study.digest}
            backend.set_study_user_attr(study_id, "naslab", attribute)
            try:
                aside_id = backend.create_new_study([StudyDirection.MAXIMIZE], study.name + ASIDE)
            except DuplicatedStudyError:
                aside_id = backend.get_study_id_from_name(study.name + ASIDE)
        return cls(backend, url, study_id, aside_id, study)

    def name_metric(self, metric: str) -> None:
        """Say what the values of both Optuna studies are called."""
        num_values = len(self._storage.get_study_directions(self._study_id))
        names = optuna_record.metric_names(self.study, metric, num_values)
        with storage_errors(self.url), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.load_study(study_name=self.study.name, storage=self._storage).set_metric_names(names)
            optuna.load_study(study_name=self.study.name + ASIDE, storage=self._storage).set_metric_names([metric])

    def begin(self, job: Job) -> int:
        """Record that an attempt at `job` runs; its Optuna trial id."""
        if self._begun is None:
            self._begun = len(self._all())
        home = self._study_id if optuna_record.is_searched(self.study, job) else self._aside_id
        assert home is not None
        with storage_errors(self.url):
            trial_id = self._storage.create_new_trial(home, optuna_record.template(self.study, job, self._begun))
        self._begun += 1
        return trial_id

    def rung(self, trial_id: int, epoch: int, score: float) -> None:
        """Record a running trial's metric at a rung."""
        with storage_errors(self.url):
            self._storage.set_trial_intermediate_value(trial_id, epoch, score)

    def finish(self, trial_id: int, state: State, outcome: Mapping[str, Any]) -> None:
        """Record how an attempt ended. The outcome is written before the state that makes it final."""
        with storage_errors(self.url):
            frozen = self._storage.get_trial(trial_id)
            self._storage.set_trial_user_attr(trial_id, "outcome", {**outcome, "state": state})
            trial = self._ended(frozen, {**outcome, "state": state})
            num_values = len(self._storage.get_study_directions(self._study_id))
            self._storage.set_trial_state_values(trial_id, *optuna_record.end(self.study, trial, num_values))

    def running(self) -> list[tuple[int, Trial]]:
        """Attempts without an end, with their Optuna ids: a living driver's, or those that a dead one left."""
        return [(frozen._trial_id, self._trial(frozen)) for frozen in self._all() if not frozen.state.is_finished()]

    def trials(self) -> list[Trial]:
        """Every attempt, in the order in which they began."""
        return [self._trial(frozen) for frozen in self._all()]

    def sessions(self) -> list[dict[str, float]]:
        """Drivers that ran this study: `started`, `seen` (last sign of life), both in Unix seconds, and `slots`."""
        with storage_errors(self.url):
            attributes = self._storage.get_study_user_attrs(self._study_id)
        sessions: list[dict[str, float]] = attributes.get("sessions", [])
        return sessions

    def record_sessions(self, sessions: list[dict[str, float]]) -> None:
        """Write the drivers' sessions."""
        with storage_errors(self.url):
            self._storage.set_study_user_attr(self._study_id, "sessions", sessions)

    def frame(self) -> pd.DataFrame:
        """One row per attempt: number, role, arm, state, seed, seconds by phase, scores, parameters."""
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
                "device_seconds": trial.device_seconds,
                "error": trial.error,
            }
            row.update({f"seconds_{phase}": seconds for phase, seconds in trial.seconds.items()})
            row.update(trial.scores)
            if trial.job.configuration is not None:
                row.update({f"parameter_{name}": value for name, value in trial.job.configuration.items()})
            rows.append(row)
        return pd.DataFrame(rows)

    def _all(self) -> list[FrozenTrial]:
        with storage_errors(self.url):
            homes = [home for home in (self._study_id, self._aside_id) if home is not None]
            found = [trial for home in homes for trial in self._storage.get_all_trials(home, deepcopy=False)]
        return sorted(found, key=optuna_record.number_of)

    def _trial(self, frozen: FrozenTrial) -> Trial:
        outcome = frozen.user_attrs.get("outcome")
        if outcome is None or not frozen.state.is_finished():
            return Trial(optuna_record.number_of(frozen), self._job(frozen), "running")
        return self._ended(frozen, outcome)

    def _job(self, frozen: FrozenTrial) -> Job:
        facts = frozen.user_attrs["job"]
        configuration = facts["configuration"]
        return Job(
            **{
                **facts,
                "informed_by": tuple(facts["informed_by"]),
                "configuration": None if configuration is None else self.space.configuration(configuration),
            }
        )

    def _ended(self, frozen: FrozenTrial, outcome: Mapping[str, Any]) -> Trial:
        return Trial(
            number=optuna_record.number_of(frozen),
            job=self._job(frozen),
            state=outcome["state"],
            rungs=tuple(RungRecord(**rung) for rung in outcome.get("rungs", ())),
            seconds=outcome.get("seconds", {}),
            device=outcome.get("device", ""),
            scores=outcome.get("scores", {}),
            result=outcome.get("result", {}),
            error=outcome.get("error"),
            carried_seconds=outcome.get("carried_seconds", {}),
            core_seconds=outcome.get("core_seconds", {}),
            carried_core_seconds=outcome.get("carried_core_seconds", {}),
            threads=outcome.get("threads"),
        )


def _recorded_study(storage: BaseStorage, url: str, study_id: int, name: str) -> Study:
    with storage_errors(url):
        attribute = storage.get_study_user_attrs(study_id).get("naslab")
    if attribute is None and name.endswith(ASIDE):
        raise InputError(f"{url}: {name!r} is a part of study {name.removesuffix(ASIDE)!r}; name that")
    if attribute is None:
        raise InputError(f"{url}: study {name!r} was not made by naslab; choose another name or --storage")
    if attribute.get("schema") != SCHEMA:
        raise InputError(f"{url}: study {name!r} has schema {attribute.get('schema')!r}; this version reads {SCHEMA!r}")
    return parse_study(attribute["study"], f"{url}, study {name!r}", recorded=True)


def _check_same(recorded: Study, asked: Study) -> None:
    old, new = recorded.document(), asked.document()
    changed = sorted(key for key in old if old[key] != new.get(key) and key not in GROWABLE)
    if changed:
        raise InputError(
            f"study {asked.name!r} exists with other settings ({', '.join(changed)} changed); give the study another "
            f"name, or put these back; {', '.join(sorted(GROWABLE))} may change"
        )
    arms = {arm["name"]: arm for arm in new["arms"]}
    for arm in old["arms"]:
        now = arms.get(arm["name"])
        budget = ("trials", "device_hours", "searches")
        if now is None or any(not _grown(key, arm[key], now.get(key)) for key in arm if key not in budget):
            raise InputError(
                f"study {asked.name!r}: arm {arm['name']!r} has results and may not change or go; only its "
                f"{', '.join(budget)} and the values of a grid may grow; give the changed arm another name"
            )


def _grown(key: str, old: Any, new: Any) -> bool:
    """Whether an arm's setting is as it was, or a grid that has more values of the same parameters."""
    if key != "vary" or not isinstance(new, dict):
        return bool(old == new)
    return old.keys() == new.keys() and all(value in new[name] for name in old for value in old[name])


optuna.logging.set_verbosity(optuna.logging.WARNING)
