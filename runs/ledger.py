"""The ledger: a study's Optuna storage, read as Trials. Only the driver writes to it.

One Optuna trial per attempt at a job. Its parameters are the configuration's, so that optuna-dashboard shows them;
what happened stands in two user attributes, `job` when it starts and `outcome` when it ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from naslab.errors import InputError
from naslab.nas.encoding import flatten
from naslab.runs.storage import connect, runs_folder, storage_errors, storage_url
from naslab.runs.study import Study, parse_study
from naslab.runs.trial import Job, Outcome, RungRecord, State, Trial
from naslab.search_spaces import SearchSpace

SCHEMA = "naslab.ledger/1"
OPTUNA_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "killed": TrialState.FAIL,
}
GROWABLE = frozenset(
    {"description", "seeds", "arms", "finalists", "random_architectures", "ranking", "beside", "device"}
)
"""What may change between two runs of a study: more of something, or how results are read."""


class Ledger:
    """One study's records. Open it with `Ledger.open` to read, `Ledger.start` to run."""

    def __init__(self, storage: BaseStorage, url: str, study_id: int, study: Study) -> None:
        self._storage = storage
        self._study_id = study_id
        self.url = url
        self.study = study
        self.space: SearchSpace = study.search_space
        self.files = runs_folder(url) / study.name
        self._records: dict[int, tuple[Job, Outcome | None]] = {}

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
            known = ", ".join(sorted(studies)) or "none"
            raise InputError(f"{url}: no study named {name!r}; it has {known}")
        return cls(backend, url, studies[name], _recorded_study(backend, url, studies[name], name))

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
                study_id = backend.create_new_study([StudyDirection.MAXIMIZE], study.name)
            except DuplicatedStudyError:
                study_id = backend.get_study_id_from_name(study.name)
                _check_same(_recorded_study(backend, url, study_id, study.name), study)
            attribute = {"schema": SCHEMA, "study": study.document(), "digest": study.digest}
            backend.set_study_user_attr(study_id, "naslab", attribute)
        return cls(backend, url, study_id, study)

    def begin(self, job: Job) -> int:
        """Record that an attempt at `job` runs; its Optuna trial id."""
        params: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}
        if job.configuration is not None:
            params, distributions = flatten(self.space, job.configuration, proposed_only=False)
        facts = {k: v for k, v in asdict(job).items() if k != "configuration"}
        facts["configuration"] = None if job.configuration is None else job.configuration.as_dict()
        template = create_trial(
            state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs={"job": facts}
        )
        with storage_errors(self.url):
            return self._storage.create_new_trial(self._study_id, template)

    def rung(self, trial_id: int, epoch: int, score: float) -> None:
        """Record a running trial's metric at a rung."""
        with storage_errors(self.url):
            self._storage.set_trial_intermediate_value(trial_id, epoch, score)

    def finish(self, trial_id: int, state: State, outcome: Mapping[str, Any], value: float | None) -> None:
        """Record how an attempt ended. The outcome is written before the state that makes it final."""
        with storage_errors(self.url):
            self._storage.set_trial_user_attr(trial_id, "outcome", {**outcome, "state": state})
            values = None if value is None or not math.isfinite(value) else [value]
            self._storage.set_trial_state_values(trial_id, OPTUNA_STATES[state], values)

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
            return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _trial(self, frozen: FrozenTrial) -> Trial:
        facts = frozen.user_attrs["job"]
        configuration = facts["configuration"]
        job = Job(
            **{
                **facts,
                "informed_by": tuple(facts["informed_by"]),
                "configuration": None if configuration is None else self.space.configuration(configuration),
            }
        )
        outcome = frozen.user_attrs.get("outcome")
        if outcome is None or not frozen.state.is_finished():
            return Trial(frozen.number, job, "running")
        return Trial(
            number=frozen.number,
            job=job,
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
