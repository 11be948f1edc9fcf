"""The ledger: a study's Optuna storage, read as Trials. Only the driver writes to it.

One Optuna trial per attempt at a job. Its parameters are the configuration's, so that optuna-dashboard shows them;
what happened stands in two user attributes, `job` when it starts and `outcome` when it ends.
"""

from __future__ import annotations

import math
import time
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

from efficiency.errors import InputError
from nas.encoding import flatten
from runs.storage import connect, runs_folder, shown, storage_errors, storage_url
from runs.study import Study, parse_study
from runs.trial import Job, RungRecord, State, Trial
from search_spaces import SearchSpace

SCHEMA = "naslab.ledger/1"
OPTUNA_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "killed": TrialState.FAIL,
}
GROWABLE = frozenset({"description", "seeds", "arms", "finalists", "random_architectures", "ranking", "device"})
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
        self._finished: dict[int, Trial] = {}

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
            raise InputError(f"{shown(url)}: no study named {name!r}; it has {known}")
        return cls(backend, url, studies[name], _recorded_study(backend, url, studies[name], name))

    @classmethod
    def start(cls, storage: str | None, study: Study) -> Ledger:
        """The ledger of `study`, made if it is new, taken up where it stands if not.

        What has grown since the last run is recorded by `record_study`, once it is sure that no other driver runs.

        Raises:
            InputError: the storage cannot be used, or holds another study of that name.
        """
        url = storage_url(storage)
        backend = connect(url, create=True)
        with storage_errors(url):
            try:
                study_id = backend.create_new_study([StudyDirection.MAXIMIZE], study.name)
            except DuplicatedStudyError:
                study_id = backend.get_study_id_from_name(study.name)
            # A process killed between making a study and describing it leaves one with nothing in it: taken over.
            is_new = not backend.get_study_user_attrs(study_id) and not backend.get_all_trials(study_id)
        ledger = cls(backend, url, study_id, study)
        if is_new:
            ledger.record_study()
        else:
            _check_same(_recorded_study(backend, url, study_id, study.name), study)
        return ledger

    def record_study(self) -> None:
        """Write what is asked for now."""
        attribute = {"schema": SCHEMA, "study": self.study.document(), "digest": self.study.digest}
        with storage_errors(self.url):
            self._storage.set_study_user_attr(self._study_id, "naslab", attribute)

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

    def finish(
        self,
        trial_id: int,
        state: State,
        outcome: Mapping[str, Any],
        value: float | None,
        ended: float | None = None,
    ) -> None:
        """Record how an attempt ended, and when (Unix time; now unless told).

        The outcome is written before the state that makes it final.
        """
        facts = {**outcome, "state": state, "ended": time.time() if ended is None else ended}
        with storage_errors(self.url):
            self._storage.set_trial_user_attr(trial_id, "outcome", facts)
            values = None if value is None or not math.isfinite(value) else [value]
            self._storage.set_trial_state_values(trial_id, OPTUNA_STATES[state], values)

    def running(self) -> list[tuple[int, Trial]]:
        """Attempts without an end, with their Optuna ids: a living driver's, or those that a dead one left."""
        return [(frozen._trial_id, self._trial(frozen)) for frozen in self._all() if not frozen.state.is_finished()]

    def trials(self) -> list[Trial]:
        """Every attempt, in the order in which they began."""
        return [self._trial(frozen) for frozen in self._all()]

    def sessions(self) -> list[dict[str, float]]:
        """Drivers that ran this study: `started`, `seen` (last sign of life), both in Unix seconds, and `slots`.

        The end of a trial is a sign of life, too: it may be younger than the last one that the driver wrote.
        """
        with storage_errors(self.url):
            attributes = self._storage.get_study_user_attrs(self._study_id)
        sessions = [dict(session) for session in attributes.get("sessions", [])]
        ends = [f.user_attrs["outcome"].get("ended", 0.0) for f in self._all() if f.state.is_finished()]
        next_starts = [session["started"] for session in sessions[1:]] + [math.inf]
        for session, until in zip(sessions, next_starts, strict=True):
            own = (end for end in ends if session["started"] <= end < until)
            session["seen"] = max(session["seen"], *own, session["started"])
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
        """The record as a Trial; a finished one never changes, so it is read once."""
        if frozen.number not in self._finished:
            trial = self._read(frozen)
            if not frozen.state.is_finished():
                return trial
            self._finished[frozen.number] = trial
        return self._finished[frozen.number]

    def _read(self, frozen: FrozenTrial) -> Trial:
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
        )


def _recorded_study(storage: BaseStorage, url: str, study_id: int, name: str) -> Study:
    with storage_errors(url):
        attribute = storage.get_study_user_attrs(study_id).get("naslab")
    if attribute is None:
        raise InputError(f"{shown(url)}: study {name!r} was not made by naslab; choose another name or --storage")
    schema = attribute.get("schema")
    if schema != SCHEMA:
        raise InputError(f"{shown(url)}: study {name!r} has schema {schema!r}; this version reads {SCHEMA!r}")
    return parse_study(attribute["study"], f"{shown(url)}, study {name!r}")


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
        if now is None or any(arm[key] != now.get(key) for key in arm if key not in budget):
            raise InputError(
                f"study {asked.name!r}: arm {arm['name']!r} has results and may not change or go; only its "
                f"{', '.join(budget)} may grow; give the changed arm another name"
            )


optuna.logging.set_verbosity(optuna.logging.WARNING)
