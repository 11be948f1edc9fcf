"""The race of seeds in a study: which run comes next once every row has its first seeds (see `nas/racing.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from naslab.nas.racing import Contender, Looks, next_seeds
from naslab.runs.spend import SECONDS_PER_HOUR, cost_unit
from naslab.runs.study import Study
from naslab.runs.trial import Job, Trial
from naslab.search_spaces import Configuration

TIE = 0.05
"""Rows whose scores are within this share of each other are as good as one another: no seed is spent to part them."""


def race_jobs(study: Study, metric: str, trials: Sequence[Trial]) -> Iterator[Job]:
    """The jobs that the race asks for now, the reference's before those that are paired with it."""
    if study.race_to is None:
        return
    groups: dict[Configuration, list[Trial]] = {}
    for trial in trials:
        if trial.job.role in ("reference", "final") and trial.job.configuration is not None:
            groups.setdefault(trial.job.configuration, []).append(trial)
    rows = {c.digest: _contender(study, c, group, metric) for c, group in groups.items()}
    reference = rows.get(study.search_space.reference.digest)
    floor, margin = _floor(study, metric, reference)
    known = [row for row in rows.values() if row.quality]
    wanted = set(next_seeds(known, floor, margin, Looks(len(study.seeds), study.race_to), TIE))
    for configuration, group in groups.items():
        if configuration.digest in wanted and (seed := _next_seed(study, group)) is not None:
            if configuration != study.search_space.reference and study.search_space.reference in groups:
                yield _job(groups[study.search_space.reference][0].job, seed)
            yield _job(group[0].job, seed)


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
    by_core = cost_unit(trial.device) == "cpu_hours" and trial.core_seconds
    return (trial.run_core_seconds if by_core else trial.run_seconds) / SECONDS_PER_HOUR


def _floor(study: Study, metric: str, reference: Contender | None) -> tuple[dict[int, float] | None, float]:
    asked = study.ranking.floor
    if asked == "reference" and reference is not None and reference.quality:
        mean = sum(reference.quality.values()) / len(reference.quality)
        return dict(reference.quality), study.margin(metric, mean)
    if isinstance(asked, float) and study.race_to is not None:
        return dict.fromkeys(range(study.race_to), study.objective.sign * asked), study.margin(metric, asked)
    return None, 0.0


def _next_seed(study: Study, group: Sequence[Trial]) -> int | None:
    """The first seed that the row has not been given; None while one of its runs is on its way, or after the last."""
    if any(t.state == "running" for t in group):
        return None
    given = {t.job.seed for t in group if t.state != "interrupted"}
    return next((seed for seed in range(study.race_to or 0) if seed not in given), None)


def _job(like: Job, seed: int) -> Job:
    assert like.configuration is not None
    return replace(like, key=f"{like.role}/{like.configuration.digest}/seed{seed}", seed=seed)
