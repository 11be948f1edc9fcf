"""The state of the trials so far, as the plan needs it: updated at each begin and end, never reread.

A study of thousands of trials asks for thousands of proposals; going over all trials for each would be quadratic.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from naslab.nas.history import Observation
from naslab.runs.constraints import checks_of
from naslab.runs.spend import SECONDS_PER_HOUR
from naslab.runs.study import Study
from naslab.runs.trial import GIVEN_UP, Job, Trial
from naslab.search_spaces import Configuration

Group: TypeAlias = tuple[str | None, str]
"""An arm, None for the study itself, and a role."""
_NOTHING: Mapping[int, Trial] = MappingProxyType({})


class Past:
    """Trials by arm and role, and which keys are closed.

    Args:
        forgiven: numbers of attempts that failed and whose jobs are to be tried again.
    """

    def __init__(
        self, study: Study, metric: str, trials: Iterable[Trial] = (), forgiven: frozenset[int] = frozenset()
    ) -> None:
        self.study, self.metric, self.forgiven = study, metric, forgiven
        self.trials: dict[int, Trial] = {}
        """Every attempt by its number."""
        self.broken: set[Configuration] = set()
        self.begun: Counter[str | None] = Counter()
        """Attempts of each arm."""
        self.running: dict[int, Trial] = {}
        self._closing: Counter[str] = Counter()
        """By key, attempts after which the job is not to be tried again."""
        self._groups: dict[Group, dict[int, Trial]] = {}
        self._made: dict[Group, dict[str, Trial]] = {}
        self._observed: dict[str | None, _History] = {}
        self._repeat: dict[Group, dict[str, Trial]] = {}
        self._spent: dict[Group, tuple[float, int]] = {}
        self.out_of_memory: set[str] = set()
        """Keys of the jobs whose last attempt that has ended was interrupted for want of memory."""
        for trial in trials:
            self.take(trial)

    def take(self, trial: Trial) -> None:
        """Take in an attempt that began, or one that ended."""
        before = self.trials.get(trial.number)
        self.trials[trial.number] = trial
        key, group = trial.job.key, (trial.job.arm, trial.job.role)
        if before is None:
            self.begun[trial.job.arm] += 1
        else:
            self._closing[key] -= not self.is_again(before)
        self._closing[key] += not self.is_again(trial)
        self._groups.setdefault(group, {})[trial.number] = trial
        self._made.setdefault(group, {})[key] = trial
        self.running.pop(trial.number, None)
        repeat = self._repeat.setdefault(group, {})
        repeat.pop(key, None)
        if self.is_again(trial):
            repeat[key] = trial
        if trial.state == "running":
            self.running[trial.number] = trial
        else:
            (self.out_of_memory.add if trial.cause == "memory" else self.out_of_memory.discard)(key)
            seconds, finished = self._spent.get(group, (0.0, 0))
            self._spent[group] = seconds + trial.device_seconds, finished + 1
        self.broken |= breaking(self.study, [trial])
        if trial.job.role == "proposal":
            # A search by gradient descent has no configuration before it ends; one that failed never has.
            known = trial.state != "running" and trial.job.configuration is not None
            observation = tell(self.study, trial, self.metric) if known else None
            self._observed.setdefault(trial.job.arm, _History()).take(trial.job, observation)

    def is_again(self, trial: Trial) -> bool:
        """Whether the job of this attempt, its last, is to be tried again."""
        return trial.state == "interrupted" or trial.number in self.forgiven

    def is_open(self, key: str) -> bool:
        """Whether `key` still needs an attempt."""
        return not self._closing[key]

    def of_arm(self, name: str | None, role: str) -> Iterable[Trial]:
        """An arm's attempts of one role; without a name, those of the study itself."""
        return self._groups.get((name, role), _NOTHING).values()

    def made(self, name: str | None, role: str) -> Mapping[str, Trial]:
        """The last attempt at each of an arm's jobs by key, in the order in which these were made."""
        return self._made.get((name, role), {})

    def to_repeat(self, name: str | None, role: str) -> list[Trial]:
        """The last attempts at those of an arm's jobs that are to be tried again."""
        found = self._repeat.get((name, role), {})
        return sorted((trial for key, trial in found.items() if self.is_open(key)), key=lambda trial: trial.number)

    def spent(self, name: str | None, role: str) -> tuple[float, int]:
        """Device seconds of an arm's attempts that have ended, and how many these are."""
        return self._spent.get((name, role), (0.0, 0))

    @property
    def seconds(self) -> float:
        """Device seconds of all attempts that have ended."""
        return sum(seconds for seconds, _ in self._spent.values())

    def observations(self, name: str) -> Sequence[Observation]:
        """What came of an arm's proposals that have ended, in the order in which they were made."""
        return self._observed.get(name, _History()).observations

    def tried(self, name: str) -> Collection[Configuration]:
        """The configurations of an arm's proposals, ended or not."""
        return self._observed.get(name, _History()).tried


class _History:
    """Observations of an arm in the order of its proposals, which may end in another."""

    def __init__(self) -> None:
        self.observations: list[Observation] = []
        self.tried: set[Configuration] = set()
        self._indexes: list[int] = []

    def take(self, job: Job, observation: Observation | None) -> None:
        """Take in what came of a proposal; None while it runs, for the first time or again."""
        if job.configuration is not None:
            self.tried.add(job.configuration)
        index = proposal_index(job.key)
        place = bisect_left(self._indexes, index)
        if place < len(self._indexes) and self._indexes[place] == index:
            del self._indexes[place], self.observations[place]
        if observation is not None:
            self._indexes.insert(place, index)
            self.observations.insert(place, observation)


def proposal_index(key: str) -> int:
    """The number in its arm, from 0, of the proposal of that key."""
    return int(key.rpartition("/")[2])


def breaking(study: Study, trials: Iterable[Trial]) -> frozenset[Configuration]:
    """Configurations that break a constraint of the study, by any of their trials; the reference is never one."""
    checked = (t for t in trials if t.result.get("constraints"))
    found = {t.job.configuration for t in checked if any(check.broken for check in checks_of(t.result))}
    return frozenset(c for c in found if c is not None and c != study.search_space.reference)


def tell(study: Study, trial: Trial, metric: str) -> Observation:
    """What a sampler observes of a finished proposal; more is better."""
    violations = tuple(check.excess for check in checks_of(trial.result))
    score = last_score(trial, metric)
    value = None if score is None else study.objective.sign * score
    return Observation(configuration_of(trial.job), value, violations, _traded(study, trial))


def _traded(study: Study, trial: Trial) -> float | None:
    """What a proposal's score is traded against, where the objective is a front."""
    if study.objective.kind != "pareto":
        return None
    name = study.objective.cost
    return trial.run_seconds / SECONDS_PER_HOUR if name is None else trial.result.get("costs", {}).get(name)


def last_score(trial: Trial, metric: str) -> float | None:
    """What a search may know of a trial: its validation score, or the last rung's; None if it has none."""
    if trial.state in GIVEN_UP:
        return None
    scores = [rung.scores[metric] for rung in trial.rungs if metric in rung.scores]
    score = trial.scores.get(f"validation_{metric}", scores[-1] if scores else None)
    return score if score is not None and math.isfinite(score) else None


def configuration_of(job: Job) -> Configuration:
    """Its configuration, of a job that has one."""
    assert job.configuration is not None
    return job.configuration
