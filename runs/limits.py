"""Limits: what ends a trial that hangs, a study in which every trial fails, and a study whose budget is spent."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

from naslab.errors import NaslabError
from naslab.nas.arms import Sampled
from naslab.runs.events import SIGN_OF_LIFE_SECONDS, Follower
from naslab.runs.plan import expected_jobs
from naslab.runs.race import race_jobs
from naslab.runs.spend import SECONDS_PER_HOUR
from naslab.runs.study import Limits, Study
from naslab.runs.trial import ENDED, GIVEN_UP, RungRecord, Trial


class FailureStreak:
    """Counts trials that end in the same failure, one after the other, in this run of the study."""

    def __init__(self, study: str, limit: int) -> None:
        self._study, self._limit = study, limit
        self._fault: str | None = None
        self._count = 0

    def note(self, trial: Trial) -> None:
        """Take in how a trial ended.

        Raises:
            NaslabError: it is the last of as many equal failures as are allowed.
        """
        if trial.state in ("complete", "pruned"):
            self._fault, self._count = None, 0
        elif trial.state in GIVEN_UP:
            fault = trial.fault or trial.error
            self._count = self._count + 1 if fault == self._fault else 1
            self._fault = fault
            if self._count >= self._limit:
                raise NaslabError(
                    f"{self._study}: stopped after {self._count} equal failures in a row (limits.failures_in_a_row); "
                    f"the last: trial {trial.number}: {trial.error}; mend it and run with --retry-failed"
                )


def given_up(trials: Sequence[Trial]) -> list[Trial]:
    """The last attempts of the jobs that are not tried again, though nothing came of them."""
    last = {trial.job.key: trial for trial in sorted(trials, key=lambda t: t.number)}
    return [trial for trial in last.values() if trial.state in GIVEN_UP]


def forgivable(trials: Sequence[Trial]) -> frozenset[int]:
    """Numbers of every attempt that failed at a job that is given up: without them it is open again."""
    keys = {trial.job.key for trial in given_up(trials)}
    return frozenset(t.number for t in trials if t.job.key in keys and t.state in GIVEN_UP)


def deaths_without_progress(attempts: Iterable[Trial], rungs: Sequence[RungRecord]) -> int:
    """How often in a row a job's worker has died without coming further than before, this time included.

    Args:
        attempts: the job's earlier ones, in order. What a driver's end or the budget interrupted is no death.
        rungs: of the attempt that just died.
    """
    furthest = deaths = 0
    for trial in attempts:
        if trial.state in GIVEN_UP:
            furthest = deaths = 0
        elif trial.last_epoch > furthest:
            furthest, deaths = trial.last_epoch, 0
        deaths += trial.cause == "worker" and trial.state == "interrupted"
    progress = max((rung.epoch for rung in rungs), default=0) > furthest
    return 1 if progress else deaths + 1


def overdue(limits: Limits, seconds: float) -> bool:
    """Whether a trial that has held its slot for so long, alive or not, has had its time."""
    return limits.trial_hours is not None and seconds > limits.trial_hours * SECONDS_PER_HOUR


def spent_hours(trials: Iterable[Trial], running: Iterable[Follower] = ()) -> float:
    """Device hours of a study so far, running trials included."""
    seconds = sum(t.device_seconds for t in trials) + sum(sum(f.seconds().values()) for f in running)
    return seconds / SECONDS_PER_HOUR


def forecast_hours(study: Study, trials: Sequence[Trial]) -> float | None:
    """Device hours that the jobs still to come are likely to need, by the mean of their role; None if unknown.

    Where seeds race, every row is taken to need all of them: the most that may come.
    """
    ended = [t for t in trials if t.state in ENDED]
    if not ended or any(isinstance(arm, Sampled) and arm.trials is None for arm in study.arms):
        return None
    overall = fmean(t.full_seconds for t in ended)
    own: dict[str, list[float]] = {
        role: [t.full_seconds for t in ended if t.job.role == role] for role in {t.job.role for t in ended}
    }
    means = {role: fmean(seconds) for role, seconds in own.items()}
    expected = expected_jobs(study, ())
    left = Counter({role: max(number - len(own.get(role, [])), 0) for role, number in expected.items()})
    left.update(_left_of_race(study, trials, expected, begun=not left.total()))
    return sum(number * means.get(role, overall) for role, number in left.items()) / SECONDS_PER_HOUR


def _left_of_race(study: Study, trials: Sequence[Trial], expected: Counter[str], begun: bool) -> Counter[str]:
    """The most jobs by role that a race may still ask for: before it begins, all seeds of every row."""
    if study.race_to is None:
        return Counter()
    if not begun:
        rows = {role: expected[role] // len(study.seeds) for role in ("reference", "final")}
        return Counter({role: number * (study.race_to - len(study.seeds)) for role, number in rows.items()})
    metric = next((str(t.result["metric"]) for t in trials if "metric" in t.result), "")
    left: Counter[str] = Counter()
    for job in race_jobs(study, metric, trials):
        left[job.role] += study.race_to - job.seed
    return left


def seconds_left(limits: Limits, ended: float, running: Iterable[Follower]) -> float:
    """Device seconds of the study's budget that are left now.

    Args:
        ended: device seconds of the trials that have ended.
        running: trials that run, charged up to this moment, not to their last sign of life.
    """
    if limits.gpu_hours is None:
        return math.inf
    return limits.gpu_hours * SECONDS_PER_HOUR - ended - sum(map(_seconds_so_far, running))


def _seconds_so_far(follower: Follower) -> float:
    seen = sum(follower.seconds().values())
    if follower.last_seen is None:
        return seen
    # Its clock may be another machine's, and differ; a sign of life is never older than this.
    since = min(max(time.time() - follower.last_seen, 0.0), 2 * SIGN_OF_LIFE_SECONDS)
    return seen + follower.share * since
