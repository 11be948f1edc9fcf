"""The race of seeds in a study: which run comes next once every row has its first seeds (see `nas/racing.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from naslab.nas.racing import Contender, Floor, Looks, next_seeds
from naslab.runs.constraints import checks_of
from naslab.runs.spend import SECONDS_PER_HOUR, cost_unit
from naslab.runs.study import Study
from naslab.runs.trial import Job, Trial
from naslab.search_spaces import Configuration

TIE = 0.05
"""Rows whose scores are within this share of each other are as good as one another: no seed is spent to part them."""


def race_jobs(study: Study, metric: str, trials: Sequence[Trial]) -> Iterator[Job]:
    """The jobs that the race asks for now, the reference's before those that are paired with it.

    A reference that breaks a constraint is no floor (see `floor_of`) and takes no part. No run is begun that the rest
    of `limits.gpu_hours` would cut short.
    """
    if study.race_to is None:
        return
    groups: dict[Configuration, list[Trial]] = {}
    for trial in trials:
        if trial.job.role in ("reference", "final") and trial.job.configuration is not None:
            groups.setdefault(trial.job.configuration, []).append(trial)
    published = groups.get(study.search_space.reference, [])
    broken = _breaks(published)
    pairs = bool(published) and not broken
    if not pairs:
        groups.pop(study.search_space.reference, None)
    rows = {c: _contender(study, c, group, metric) for c, group in groups.items()}
    own = rows.get(study.search_space.reference)
    floor, margin = _floor(
        study, metric, own.quality if own else {}, _best_baseline(study, metric, trials) if broken else []
    )
    known = [row for row in rows.values() if row.quality]
    wanted = set(next_seeds(known, floor, margin, Looks(len(study.seeds), study.race_to), TIE))
    for configuration, group in groups.items():
        seed = _next_seed(study, group) if configuration.digest in wanted else None
        if seed is not None and _fits(study, trials, group):
            if configuration != study.search_space.reference and pairs:
                yield _job(published[0].job, seed)
            yield _job(group[0].job, seed)


def _breaks(group: Sequence[Trial]) -> bool:
    return any(check.broken for trial in group for check in checks_of(trial.result))


def _fits(study: Study, trials: Sequence[Trial], group: Sequence[Trial]) -> bool:
    """Whether the rest of the budget has room for one more run of a row that has some, beside those that run."""
    if study.limits.gpu_hours is None:
        return True
    one = fmean(t.full_seconds for t in group if t.state == "complete")
    runs = 1 + sum(t.state == "running" for t in trials)
    return runs * one <= study.limits.gpu_hours * SECONDS_PER_HOUR - sum(t.device_seconds for t in trials)


def is_race_job(study: Study, job: Job) -> bool:
    """Whether the job is one of the race: a seed beyond the first ones of a row."""
    return study.race_to is not None and job.role in ("reference", "final") and job.seed not in study.seeds


def _contender(study: Study, configuration: Configuration, group: Sequence[Trial], metric: str) -> Contender:
    done = {t.job.seed: t for t in group if t.state == "complete" and metric in t.scores}
    quality = {seed: study.objective.sign * t.scores[metric] for seed, t in sorted(done.items())}
    if study.objective.kind == "pareto" or study.ranking.by == "gain" or any(q <= 0 for q in quality.values()):
        return Contender(configuration.digest, quality, quality)
    return Contender(configuration.digest, quality, {s: q / max(_hours(done[s]), 1e-12) for s, q in quality.items()})


def _hours(trial: Trial) -> float:
    by_core = cost_unit(trial.device) == "cpu_hours" and trial.run_core_seconds
    return (trial.run_core_seconds if by_core else trial.run_seconds) / SECONDS_PER_HOUR


def _floor(
    study: Study, metric: str, reference: Mapping[int, float], instead: Sequence[float]
) -> tuple[Floor | None, float]:
    """The floor of the race, which is that of the ranking (see `floor_of`), and the margin; None without one.

    Args:
        reference: its quality by seed; empty where it has no finished run, or breaks a constraint.
        instead: scores of what stands for one that breaks a constraint.
    """
    asked, sign = study.ranking.floor, study.objective.sign
    if asked == "none":
        return None, 0.0
    if asked != "reference":
        return (sign * asked,), study.margin(metric, asked)
    if reference:
        return dict(reference), study.margin(metric, fmean(reference.values()))
    return (tuple(sign * one for one in instead), study.margin(metric, fmean(instead))) if instead else (None, 0.0)


def _best_baseline(study: Study, metric: str, trials: Sequence[Trial]) -> list[float]:
    """Scores of what stands for a reference that breaks a constraint: the best control, or the random baseline."""
    groups: dict[str, list[float]] = {}
    for trial in trials:
        if trial.job.role in ("control", "random") and trial.state == "complete" and metric in trial.scores:
            label = trial.job.label if trial.job.role == "control" else "random architectures"
            groups.setdefault(label, []).append(trial.scores[metric])
    return max(groups.values(), key=lambda scores: study.objective.sign * fmean(scores), default=[])


def _next_seed(study: Study, group: Sequence[Trial]) -> int | None:
    """The first seed that the row has not been given; None while one of its runs is on its way, or after the last."""
    if any(t.state == "running" for t in group):
        return None
    given = {t.job.seed for t in group if t.state != "interrupted"}
    return next((seed for seed in range(study.race_to or 0) if seed not in given), None)


def _job(like: Job, seed: int) -> Job:
    assert like.configuration is not None
    return replace(like, key=f"{like.role}/{like.configuration.digest}/seed{seed}", seed=seed)
