"""Failures, in lines above a ranking: a row with fewer seeds than requested is a different claim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from naslab.runs.study import Study
from naslab.runs.trial import GIVEN_UP, Trial

SPOKEN = ("reference", "final", "control", "random", "search")


def failures_of(study: Study, trials: Sequence[Trial]) -> tuple[str, ...]:
    """One line for each configuration or control of which a run failed or was given up, and one for proposals."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if trial.job.role in SPOKEN:
            groups.setdefault(_subject(trial), []).append(trial)
    lines = [line for (role, subject), group in groups.items() for line in _of_group(role, subject, group)]
    if not any(t.job.role == "reference" and t.state == "complete" for t in trials) and _has_failed(trials):
        lines.append("The reference has no finished run, so there is no floor.")
    lines += _proposals(trials)
    retry = [f"`naslab run STUDY.yaml --retry-failed` retries what failed in {study.name}."] if lines else []
    return (*lines, *retry)


def _subject(trial: Trial) -> tuple[str, str]:
    digest = trial.job.configuration.digest[:6] if trial.job.configuration else ""
    role = trial.job.role
    if role == "final":
        return role, f"{trial.job.label} {digest}"
    return role, {"reference": "reference", "random": "random architectures"}.get(role, trial.job.label)


def _of_group(role: str, subject: str, group: Sequence[Trial]) -> Iterator[str]:
    last = {t.job.key: t for t in sorted(group, key=lambda t: t.number)}
    lost = [t for t in last.values() if t.state in GIVEN_UP]
    if not lost:
        return
    done = sum(t.state == "complete" for t in last.values())
    why = f"trial {lost[0].number}: {lost[0].error or lost[0].state}"
    what = f"{len(lost)} of {len(last)} runs" if len(last) > 1 else "its run"
    rest = f"; it stands on {done}" if done and role in ("reference", "final") else ""
    yield f"{subject}: {what} failed ({why}){rest}."


def _has_failed(trials: Sequence[Trial]) -> bool:
    return any(t.job.role == "reference" and t.state in GIVEN_UP for t in trials)


def _proposals(trials: Sequence[Trial]) -> Iterator[str]:
    last = {t.job.key: t for t in sorted(trials, key=lambda t: t.number) if t.job.role == "proposal"}
    failed = [t for t in last.values() if t.state in GIVEN_UP]
    if failed:
        yield f"{len(failed)} of {len(last)} proposals failed (trial {failed[0].number}: {failed[0].error})."
