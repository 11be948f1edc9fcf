"""What to run next: a pure function of the study and the ledger's trials, so that resuming is only asking again.

Order: controls, the reference and the random architectures; the searches; their finalists and the points of grids with
every seed; profiles of what is ranked, one at a time while nothing else runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from naslab.nas.arms import Arm, Differentiable, Grid, Sampled
from naslab.nas.grid import describe_point
from naslab.nas.pareto import spread
from naslab.nas.sampling import Observation, propose, random_configuration
from naslab.runs.constraints import checks_of
from naslab.runs.race import is_race_job, race_jobs
from naslab.runs.spend import SECONDS_PER_HOUR
from naslab.runs.study import Study
from naslab.runs.trial import GIVEN_UP, Job, Trial
from naslab.search_spaces import Configuration, Control, derive_seed

REDRAWS = 20
"""How often a random architecture that was drawn before is drawn anew."""
REPLACEMENTS = 10
"""Random architectures that a constraint kept from being trained are replaced by up to this many times as many."""


@dataclass(frozen=True)
class Plan:
    """The next job, or why there is none: `waiting` for running trials, or `done`."""

    job: Job | None
    state: Literal["ready", "waiting", "done"]


def next_job(
    study: Study,
    controls: Sequence[Control],
    metric: str,
    trials: Sequence[Trial],
    forgiven: frozenset[int] = frozenset(),
    warm: Mapping[str, Sequence[Observation]] = MappingProxyType({}),
) -> Plan:
    """The job to start now.

    Args:
        controls: of the study's task.
        metric: the name of the score that ranks.
        trials: every attempt so far, running ones included.
        forgiven: numbers of attempts that failed and whose jobs are to be tried again.
        warm: what each arm's sampler knows from another study, by the arm's name.
    """
    view = _View(study, metric, trials, forgiven, warm)
    fixed = _fixed_jobs(study, controls, view.replacements, view.of_arm(None, "random"))
    for stage in (fixed, _arm_jobs(view), _final_jobs(view)):
        for job in stage:
            if view.is_open(job.key):
                return Plan(job, "ready")
    if not any(t.state == "running" and not is_race_job(study, t.job) for t in trials):
        for job in race_jobs(study, metric, trials):
            if view.is_open(job.key):
                return Plan(job, "ready")
    if view.busy:
        return Plan(None, "waiting")
    for job in _profile_jobs(view):
        if view.is_open(job.key):
            return Plan(job, "ready")
    return Plan(None, "done")


def expected_jobs(study: Study, controls: Sequence[Control]) -> Counter[str]:
    """How many jobs of each role a study is expected to have; arms limited by hours alone count as unknown (0)."""
    count: Counter[str] = Counter(job.role for job in _fixed_jobs(study, controls))
    for arm in study.arms:
        if isinstance(arm, Differentiable):
            count["search"] += arm.searches
        elif isinstance(arm, Sampled):
            count["proposal"] += arm.trials or 0
    swept = {point for points in study.grids.values() for point in points} - {study.search_space.reference}
    ranked = len(swept) + study.finalists * sum(not isinstance(arm, Grid) for arm in study.arms)
    count["final"] = ranked * len(study.seeds)
    if study.search_space.builds_models:
        count["profile"] = 1 + ranked
    return count


class _View:
    """The trials by key, and which keys are closed."""

    def __init__(
        self,
        study: Study,
        metric: str,
        trials: Sequence[Trial],
        forgiven: frozenset[int] = frozenset(),
        warm: Mapping[str, Sequence[Observation]] = MappingProxyType({}),
    ) -> None:
        self.study, self.metric, self.trials, self.warm = study, metric, trials, warm
        self.busy = any(t.state == "running" for t in trials)
        self._closed = {t.job.key for t in trials if t.state != "interrupted" and t.number not in forgiven}
        self.forgiven = forgiven
        self.broken = breaking(study, trials)
        pruned = sum(t.job.role == "random" and t.state == "pruned" for t in trials)
        self.replacements = min(pruned, REPLACEMENTS * study.random_architectures)
        self._of_arm: dict[tuple[str | None, str], list[Trial]] = {}
        for trial in trials:
            self._of_arm.setdefault((trial.job.arm, trial.job.role), []).append(trial)

    def is_again(self, trial: Trial) -> bool:
        """Whether the job of this attempt, its last, is to be tried again."""
        return trial.state == "interrupted" or trial.number in self.forgiven

    def is_open(self, key: str) -> bool:
        """Whether `key` still needs an attempt."""
        return key not in self._closed

    def of_arm(self, name: str | None, role: str) -> list[Trial]:
        """An arm's attempts of one role; without a name, those of the study itself."""
        return self._of_arm.get((name, role), [])


def breaking(study: Study, trials: Iterable[Trial]) -> frozenset[Configuration]:
    """Configurations that break a constraint of the study, by any of their trials; the reference is never one."""
    checked = (t for t in trials if t.result.get("constraints"))
    found = {t.job.configuration for t in checked if any(check.broken for check in checks_of(t.result))}
    return frozenset(c for c in found if c is not None and c != study.search_space.reference)


def _fixed_jobs(
    study: Study, controls: Sequence[Control], replacements: int = 0, drawn: Sequence[Trial] = ()
) -> Iterator[Job]:
    space = study.search_space
    for control in controls:
        for seed in study.seeds if control.seeded else study.seeds[:1]:
            yield Job(f"control/{control.name}/seed{seed}", "control", control.name, seed)
    for seed in study.seeds:
        key = f"reference/{space.reference.digest}/seed{seed}"
        yield Job(key, "reference", "reference", seed, space.reference)
    if study.arms:
        yield from _random_jobs(study, study.random_architectures + replacements, drawn)


def _random_jobs(study: Study, number: int, drawn: Sequence[Trial]) -> Iterator[Job]:
    """Different architectures, each with one of the seeds; one that was drawn before keeps its own for good."""
    known = {t.job.label: t.job for t in drawn}
    seen = {job.configuration for job in known.values()}
    for i in range(number):
        label = f"random {i}"
        if label in known:
            yield known[label]
            continue
        configuration = _new_architecture(study, i, seen)
        if configuration is None:
            return
        seen.add(configuration)
        seed = study.seeds[i % len(study.seeds)]
        yield Job(f"random/{i}-{configuration.digest}/seed{seed}", "random", label, seed, configuration)


def _new_architecture(study: Study, index: int, seen: Collection[Configuration | None]) -> Configuration | None:
    """The random architecture of this index; None where the space seems to have no other."""
    for draw in range(REDRAWS):
        parts = ("random", index, draw) if draw else ("random", index)
        configuration = random_configuration(study.search_space, derive_seed(study.seed, *parts))
        if configuration not in seen:
            return configuration
    return None


def _arm_jobs(view: _View) -> Iterator[Job]:
    """The next job of each arm, the arm that has begun the fewest first, so that slots are shared fairly."""
    begun = Counter(t.job.arm for t in view.trials)
    for arm in sorted(view.study.arms, key=lambda arm: begun[arm.name]):
        yield from _open_jobs(view, arm)


def _open_jobs(view: _View, arm: Arm) -> Iterator[Job]:
    match arm:
        case Differentiable():
            yield from _search_jobs(view, arm)
        case Sampled():
            yield from _proposals(view, arm)


def _search_jobs(view: _View, arm: Differentiable) -> Iterator[Job]:
    for i in range(arm.searches):
        seed = derive_seed(view.study.seed, arm.name, i)
        yield Job(f"search/{arm.name}/{i}", "search", f"{arm.name} search {i}", seed, arm=arm.name)


def _proposals(view: _View, arm: Sampled) -> Iterator[Job]:
    """First proposals that are to be tried again, as they were; then a new one while the budget lasts."""
    attempts = view.of_arm(arm.name, "proposal")
    made: dict[str, Trial] = {}
    for trial in attempts:
        made[trial.job.key] = trial
    yield from (trial.job for trial in made.values() if view.is_again(trial))
    if _spent(arm, attempts, len(made)):
        return
    history = [tell(view.study, t, view.metric) for t in made.values() if t.state != "running"]
    running = [t for t in made.values() if t.state == "running"]
    index = len(made)
    configuration = propose(
        arm,
        view.study.search_space,
        history,
        [_configuration(t.job) for t in running],
        derive_seed(view.study.seed, arm.name, index),
        stream=derive_seed(view.study.seed, arm.name),
        warm=view.warm.get(arm.name, ()),
    )
    yield Job(
        key=f"proposal/{arm.name}/{index}",
        role="proposal",
        label=f"{arm.name} {index}",
        seed=derive_seed(view.study.seed, arm.name, "train", index),
        configuration=configuration,
        arm=arm.name,
        pending=tuple(t.number for t in running),
    )


def proposal_index(key: str) -> int:
    """The number in its arm, from 0, of the proposal of that key."""
    return int(key.rpartition("/")[2])


def _spent(arm: Sampled, attempts: Iterable[Trial], proposals: int) -> bool:
    """Whether the budget is used up; hours stop when half of another mean trial would no longer fit."""
    if arm.trials is not None and proposals >= arm.trials:
        return True
    if arm.device_hours is None:
        return False
    finished = [t.device_seconds for t in attempts if t.state != "running"]
    mean = sum(finished) / len(finished) if finished else 0.0
    running = sum(t.state == "running" for t in attempts)
    return sum(finished) + (running + 0.5) * mean > 3600 * arm.device_hours or (not finished and running > 0)


def tell(study: Study, trial: Trial, metric: str) -> Observation:
    """What a sampler observes of a finished proposal; more is better."""
    violations = tuple(check.excess for check in checks_of(trial.result))
    score = last_score(trial, metric)
    value = None if score is None else study.objective.sign * score
    return Observation(_configuration(trial.job), value, violations, _traded(study, trial))


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


def arm_is_done(view: _View, arm: Arm) -> bool:
    """Whether no search of the arm is open or running; a grid has none."""
    role = "search" if isinstance(arm, Differentiable) else "proposal"
    if any(t.state == "running" for t in view.of_arm(arm.name, role)):
        return False
    return not any(view.is_open(job.key) for job in _open_jobs(view, arm))


def finalists(view: _View, arm: Arm) -> list[Configuration]:
    """The arm's best configurations by validation score, every point of a grid; none that breaks a constraint."""
    space = view.study.search_space
    if isinstance(arm, Grid):
        return [point for point in view.study.grids[arm.name] if point not in view.broken]
    scored: list[tuple[float, Configuration]] = []
    if isinstance(arm, Sampled) and view.study.objective.kind == "pareto":
        return _front(view, arm)
    if isinstance(arm, Differentiable):
        for trial in view.of_arm(arm.name, "search"):
            if trial.state == "complete":
                score = trial.result["supernet_scores"][view.metric]
                scored.append((score, space.configuration(trial.result["genotype"])))
    else:
        for trial in view.of_arm(arm.name, "proposal"):
            score = last_score(trial, view.metric)
            if trial.state == "complete" and score is not None:
                hours = trial.run_seconds / SECONDS_PER_HOUR if arm.finalists_by == "score_per_hour" else 1.0
                scored.append((score / max(hours, 1e-12), _configuration(trial.job)))
    best: dict[Configuration, float] = {}
    for score, configuration in scored:
        if configuration not in view.broken:
            signed = view.study.objective.sign * score
            best[configuration] = max(signed, best.get(configuration, signed))
    return sorted(best, key=lambda c: (-best[c], c.digest))[: view.study.finalists]


def _front(view: _View, arm: Sampled) -> list[Configuration]:
    """The arm's own Pareto front of validation score against cost, at most `finalists` points spread along it."""
    observations = [
        tell(view.study, t, view.metric) for t in view.of_arm(arm.name, "proposal") if t.state == "complete"
    ]
    known = [
        (one.configuration, (one.value, one.cost))
        for one in observations
        if one.value is not None and one.cost is not None and one.configuration not in view.broken
    ]
    chosen = spread([point for _, point in known], view.study.finalists)
    return list(dict.fromkeys(known[i][0] for i in chosen))


def _final_jobs(view: _View) -> Iterator[Job]:
    for arm in view.study.arms:
        if not arm_is_done(view, arm):
            continue
        for configuration in finalists(view, arm):
            if configuration != view.study.search_space.reference:
                point = describe_point(arm, configuration) if isinstance(arm, Grid) else "finalist"
                for seed in view.study.seeds:
                    key = f"final/{configuration.digest}/seed{seed}"
                    yield Job(key, "final", f"{arm.name} {point}", seed, configuration, arm.name)


def _profile_jobs(view: _View) -> Iterator[Job]:
    if not view.study.search_space.builds_models:
        return
    ranked: dict[Configuration, Any] = {}
    for trial in view.trials:
        if trial.job.role in ("reference", "final") and trial.state == "complete":
            ranked.setdefault(_configuration(trial.job))
    for configuration in ranked:
        key = f"profile/{configuration.digest}"
        yield Job(key, "profile", "profile", view.study.seeds[0], configuration)


def found_by(study: Study, metric: str, trials: Sequence[Trial]) -> dict[str, list[str]]:
    """Arms whose finalist or point each configuration is, by digest: two arms may have the same one."""
    view = _View(study, metric, trials)
    found: dict[str, list[str]] = {}
    for arm in study.arms:
        for configuration in finalists(view, arm):
            found.setdefault(configuration.digest, []).append(arm.name)
    return found


def _configuration(job: Job) -> Configuration:
    assert job.configuration is not None
    return job.configuration
