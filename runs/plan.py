"""What to run next: a pure function of the study and the ledger's trials, so resuming means asking again.

Order: controls, the first run of the reference and the random architectures; the searches; their finalists, the points
of grids and the reference, seed by seed; profiles of what is ranked, one at a time while nothing else runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

from naslab.nas.arms import Arm, Differentiable, Grid, Sampled
from naslab.nas.grid import describe_point
from naslab.nas.pareto import spread
from naslab.nas.sampling import Observation, propose, random_configuration
from naslab.runs.past import Past, configuration_of, last_score, tell
from naslab.runs.race import is_race_job, race_jobs
from naslab.runs.spend import SECONDS_PER_HOUR
from naslab.runs.study import Study
from naslab.runs.trial import TRAININGS, Job, Trial
from naslab.search_spaces import Configuration, derive_seed

REDRAWS = 20
"""How often a random architecture that was drawn before is drawn anew."""
REPLACEMENTS = 10
"""Random architectures that a constraint kept from being trained are replaced by up to this many times as many."""


class NamedControl(Protocol):
    """A control, as far as the plan of a study needs it."""

    @property
    def name(self) -> str:
        """Its own among the task's."""

    @property
    def seeded(self) -> bool:
        """Whether it is measured once for each seed."""


@dataclass(frozen=True)
class Plan:
    """The next job, or why there is none: `waiting` for running trials, or `done`."""

    job: Job | None
    state: Literal["ready", "waiting", "done"]


def plan_next(
    past: Past, controls: Sequence[NamedControl], warm: Mapping[str, Sequence[Observation]] = MappingProxyType({})
) -> Plan:
    """The job to start now, or why there is none.

    Args:
        past: every attempt so far, running ones included.
        controls: of the study's task.
        warm: what each arm's sampler knows from another study, by the arm's name.
    """
    for stage in (_fixed_jobs_of(past, controls), _arm_jobs(past, warm), _final_jobs(past)):
        for job in stage:
            if past.is_open(job.key):
                return Plan(job, "ready")
    if all(is_race_job(past.study, t.job) for t in past.running.values()):
        for job in race_jobs(past.study, past.metric, list(past.trials.values())):
            if past.is_open(job.key):
                return Plan(job, "ready")
    if past.running:
        return Plan(None, "waiting")
    for job in _profile_jobs(past):
        if past.is_open(job.key):
            return Plan(job, "ready")
    return Plan(None, "done")


def expected_jobs(study: Study, controls: Sequence[NamedControl]) -> Counter[str]:
    """How many jobs of each role a study is expected to have; arms limited by hours alone count as unknown (0)."""
    count: Counter[str] = Counter(job.role for job in _fixed_jobs(study, controls))
    count["reference"] = len(study.seeds)
    ranked = len({point for points in study.grids.values() for point in points} - {study.search_space.reference})
    for arm in study.arms:
        if isinstance(arm, Differentiable):
            count["search"] += arm.searches
            ranked += min(arm.searches, study.finalists)
        elif isinstance(arm, Sampled):
            count["proposal"] += arm.trials or 0
            ranked += min(arm.trials or study.finalists, study.finalists)
    count["final"] = ranked * len(study.seeds)
    if study.search_space.builds_models:
        count["profile"] = 1 + ranked
    return count


def expected_trainings(study: Study) -> int:
    """How many trainings, other than searches by gradient, a study is expected to have; 1 where nothing is known."""
    count = expected_jobs(study, ())
    return max(1, sum(count[role] for role in TRAININGS if role != "search"))


def known_jobs(study: Study, controls: Sequence[NamedControl]) -> list[Job]:
    """The jobs that are certain before anything has run: fixed ones, and the points of grids with every seed."""
    return [*_fixed_jobs(study, controls), *_final_jobs(Past(study, ""))]


def _fixed_jobs_of(past: Past, controls: Sequence[NamedControl]) -> Iterator[Job]:
    """The fixed jobs, with replacements for the random architectures that a constraint kept from being trained."""
    drawn = list(past.of_arm(None, "random"))
    pruned = sum(t.state == "pruned" for t in drawn)
    return _fixed_jobs(past.study, controls, min(pruned, REPLACEMENTS * past.study.random_architectures), drawn)


def _fixed_jobs(
    study: Study, controls: Sequence[NamedControl], replacements: int = 0, drawn: Sequence[Trial] = ()
) -> Iterator[Job]:
    for control in controls:
        for seed in study.seeds if control.seeded else study.seeds[:1]:
            yield Job(f"control/{control.name}/seed{seed}", "control", control.name, seed)
    yield _reference_job(study, study.seeds[0])
    if study.arms:
        yield from _random_jobs(study, study.random_architectures + replacements, drawn)


def _reference_job(study: Study, seed: int) -> Job:
    reference = study.search_space.reference
    return Job(f"reference/{reference.digest}/seed{seed}", "reference", "reference", seed, reference)


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


def _arm_jobs(past: Past, warm: Mapping[str, Sequence[Observation]]) -> Iterator[Job]:
    """The next job of each arm, the arm that has begun the fewest first, so that slots are shared fairly."""
    for arm in sorted(past.study.arms, key=lambda arm: past.begun[arm.name]):
        match arm:
            case Differentiable():
                yield from _search_jobs(past, arm)
            case Sampled():
                yield from _proposals(past, arm, warm.get(arm.name, ()))


def _search_jobs(past: Past, arm: Differentiable) -> Iterator[Job]:
    for i in range(arm.searches):
        seed = derive_seed(past.study.seed, arm.name, i)
        yield Job(f"search/{arm.name}/{i}", "search", f"{arm.name} search {i}", seed, arm=arm.name)


def _proposals(past: Past, arm: Sampled, warm: Sequence[Observation]) -> Iterator[Job]:
    """First proposals that are to be tried again, as they were; then a new one while the budget lasts."""
    yield from _again(past, arm)
    if _spent(past, arm):
        return
    index = len(past.made(arm.name, "proposal"))
    running = _running(past, arm)
    configuration = propose(
        arm,
        past.study.search_space,
        past.observations(arm.name),
        [configuration_of(t.job) for t in running],
        derive_seed(past.study.seed, arm.name, index),
        stream=derive_seed(past.study.seed, arm.name),
        warm=warm,
        tried=past.tried(arm.name),
    )
    yield Job(
        key=f"proposal/{arm.name}/{index}",
        role="proposal",
        label=f"{arm.name} {index}",
        seed=derive_seed(past.study.seed, arm.name, "train", index),
        configuration=configuration,
        arm=arm.name,
        pending=tuple(t.number for t in running),
    )


def _again(past: Past, arm: Sampled) -> list[Job]:
    return [trial.job for trial in past.to_repeat(arm.name, "proposal")]


def _running(past: Past, arm: Arm, role: str = "proposal") -> list[Trial]:
    return [t for t in past.running.values() if (t.job.arm, t.job.role) == (arm.name, role)]


def _spent(past: Past, arm: Sampled) -> bool:
    """Whether the budget is used up; hours stop when half of another mean trial would no longer fit."""
    if arm.trials is not None and len(past.made(arm.name, "proposal")) >= arm.trials:
        return True
    if arm.device_hours is None:
        return False
    seconds, finished = past.spent(arm.name, "proposal")
    mean = seconds / finished if finished else 0.0
    running = len(_running(past, arm))
    return seconds + (running + 0.5) * mean > SECONDS_PER_HOUR * arm.device_hours or (not finished and running > 0)


def arm_is_done(past: Past, arm: Arm) -> bool:
    """Whether no search of the arm is open or running; a grid has none."""
    match arm:
        case Differentiable():
            return not _running(past, arm, "search") and not any(past.is_open(j.key) for j in _search_jobs(past, arm))
        case Sampled():
            return not _running(past, arm) and not _again(past, arm) and _spent(past, arm)
    return True


def finalists(past: Past, arm: Arm) -> list[Configuration]:
    """The arm's best configurations by validation score, every point of a grid; none that breaks a constraint."""
    space = past.study.search_space
    if isinstance(arm, Grid):
        return [point for point in past.study.grids[arm.name] if point not in past.broken]
    scored: list[tuple[float, Configuration]] = []
    if isinstance(arm, Sampled) and past.study.objective.kind == "pareto":
        return _front(past, arm)
    if isinstance(arm, Differentiable):
        for trial in past.of_arm(arm.name, "search"):
            if trial.state == "complete":
                score = trial.result["supernet_scores"][past.metric]
                scored.append((score, space.configuration(trial.result["genotype"])))
    else:
        for trial in past.of_arm(arm.name, "proposal"):
            score = last_score(trial, past.metric)
            if trial.state == "complete" and score is not None:
                hours = trial.run_seconds / SECONDS_PER_HOUR if arm.finalists_by == "score_per_hour" else 1.0
                scored.append((score / max(hours, 1e-12), configuration_of(trial.job)))
    best: dict[Configuration, float] = {}
    for score, configuration in scored:
        if configuration not in past.broken:
            signed = past.study.objective.sign * score
            best[configuration] = max(signed, best.get(configuration, signed))
    return sorted(best, key=lambda c: (-best[c], c.digest))[: past.study.finalists]


def _front(past: Past, arm: Sampled) -> list[Configuration]:
    """The arm's own Pareto front of validation score against cost, at most `finalists` points spread along it."""
    observations = [
        tell(past.study, t, past.metric) for t in past.of_arm(arm.name, "proposal") if t.state == "complete"
    ]
    known = [
        (one.configuration, (one.value, one.cost))
        for one in observations
        if one.value is not None and one.cost is not None and one.configuration not in past.broken
    ]
    chosen = spread([point for _, point in known], past.study.finalists)
    return list(dict.fromkeys(known[i][0] for i in chosen))


def _final_jobs(past: Past) -> Iterator[Job]:
    """Every row's first seed before any row's second: an interrupted study then has something of each.

    So is the reference, whose time the rows' are compared with: a machine's speed drifts.
    """
    rows = [
        (arm, configuration, describe_point(arm, configuration) if isinstance(arm, Grid) else "finalist")
        for arm in past.study.arms
        if arm_is_done(past, arm)
        for configuration in finalists(past, arm)
        if configuration != past.study.search_space.reference
    ]
    for seed in past.study.seeds:
        if seed != past.study.seeds[0]:
            yield _reference_job(past.study, seed)
        for arm, configuration, point in rows:
            key = f"final/{configuration.digest}/seed{seed}"
            yield Job(key, "final", f"{arm.name} {point}", seed, configuration, arm.name)


def _profile_jobs(past: Past) -> Iterator[Job]:
    if not past.study.search_space.builds_models:
        return
    ranked: dict[Configuration, Any] = {}
    for trial in past.trials.values():
        if trial.job.role in ("reference", "final") and trial.state == "complete":
            ranked.setdefault(configuration_of(trial.job))
    for configuration in ranked:
        key = f"profile/{configuration.digest}"
        yield Job(key, "profile", "profile", past.study.seeds[0], configuration)


def found_by(study: Study, metric: str, trials: Sequence[Trial]) -> dict[str, list[str]]:
    """Arms whose finalist or point each configuration is, by digest: two arms may have the same one."""
    past = Past(study, metric, trials)
    found: dict[str, list[str]] = {}
    for arm in study.arms:
        for configuration in finalists(past, arm):
            found.setdefault(configuration.digest, []).append(arm.name)
    return found
