"""Comparable hours: which clock a ranking uses, and reasons to doubt a comparison.

On a CPU the unit is core hours, by the CPU clock of each worker and its children, which a busy neighbour hardly moves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal, TypeAlias

from naslab.nas.arms import Sampled
from naslab.nas.statistics import ratio_interval
from naslab.runs.rows import Row
from naslab.runs.spend import cost_unit, one_device
from naslab.runs.study import Study
from naslab.runs.trial import RungRecord, Trial
from naslab.search_spaces.common.training.policy import Policy

Clock: TypeAlias = Literal["core", "wall"]
COUNTED_APART = 1.05
"""Ratio of counted costs from which two rows are expected to differ in hours."""


def by_clock(trials: Sequence[Trial], clock: Clock) -> tuple[Trial, ...]:
    """The trials with core seconds as their device seconds where `clock` is core; else as they are."""
    if clock == "wall":
        return tuple(trials)
    return tuple(
        replace(t, seconds=t.core_seconds, carried_seconds=t.carried_core_seconds, rungs=tuple(map(_by_cores, t.rungs)))
        for t in trials
    )


def clock_of(ledgers: Iterable[Sequence[Trial]]) -> Clock:
    """The clock by which the trials of all `ledgers` can be counted: core, on a CPU, where each of them has it.

    Raises:
        InputError: as for `one_device`.
    """
    return "core" if all(map(_timed_by_cores, ledgers)) else "wall"


def _timed_by_cores(trials: Sequence[Trial]) -> bool:
    charged = [t for t in trials if t.full_seconds and t.state != "running"]
    timed = bool(charged) and all(t.core_seconds or t.carried_core_seconds for t in charged)
    return timed and cost_unit(one_device(trials)) == "cpu_hours"


def _by_cores(rung: RungRecord) -> RungRecord:
    return rung if rung.core_seconds is None else replace(rung, device_seconds=rung.core_seconds)


def doubts(rows: Sequence[Row], ledgers: Mapping[str, Sequence[Trial]], clock: Clock) -> tuple[str, ...]:
    """One line for each reason not to trust the hours of `rows` as they stand.

    Args:
        ledgers: the trials as recorded, by both clocks, of each study that has rows; first those of the study itself.
        clock: by which the rows count.
    """
    own = next(iter(ledgers), "")
    found = {name: _of_rows(rows, name, trials) for name, trials in ledgers.items()}
    together = [t for trials in found.values() for t in trials]
    return (
        *_old_records(together, clock),
        *_threads(together),
        *_shares(together),
        *_policies(together),
        *(
            f"{'' if name == own else f'{name}: '}{line}"
            for name, trials in found.items()
            for line in _contended(trials)
        ),
        *_disagreement(rows),
    )


def _of_rows(rows: Sequence[Row], study: str, trials: Sequence[Trial]) -> list[Trial]:
    """The trials behind the rows of that study; each study counts its trials from 0."""
    ranked = {number for row in rows if row.study == study for number in row.trials}
    return [t for t in trials if t.number in ranked]


def borrowed(study: Study) -> tuple[str, ...]:
    """One line for each arm whose search began with results that another study paid for."""
    return tuple(
        f"Arm {arm.name} began with what {', '.join(arm.warm_start)} measured: those hours are not among its own."
        for arm in study.arms
        if isinstance(arm, Sampled) and arm.warm_start
    )


def taken_over(trials: Sequence[Trial]) -> tuple[str, ...]:
    """One line for each study whose finished trials stand for some of this one's."""
    found = Counter(t.reused["study"] for t in trials if t.reused is not None)
    return tuple(
        f"{number} trials were taken over from {study} (reuse): their hours count in the rows, and were spent there."
        for study, number in sorted(found.items())
    )


def _old_records(trials: Sequence[Trial], clock: Clock) -> Iterable[str]:
    timed = [t for t in trials if t.core_seconds or t.carried_core_seconds]
    if clock == "wall" and timed and len(timed) < len(trials):
        yield "Some trials have no CPU clock (an earlier version ran them): hours are wall hours, which load changes."


def _threads(trials: Sequence[Trial]) -> Iterable[str]:
    known = sorted({t.threads for t in trials if t.threads})
    if len(known) > 1:
        listed = " and ".join(map(str, known))
        yield f"Trials ran with {listed} threads: hours of rows with different threads are not compared."


def _shares(trials: Sequence[Trial]) -> Iterable[str]:
    slots = sorted({round(1 / t.device_share) for t in trials})
    if len(slots) > 1:
        listed = " and ".join(map(str, slots))
        yield f"Trials ran with {listed} slots a device: each is charged for its share of one, used or not."


def _policies(trials: Sequence[Trial]) -> Iterable[str]:
    policies = [_policy(t.result) for t in trials if "policy" in t.result]
    if len(counts := Counter(policies)) > 1:
        listed = ", ".join(f"{number} in {policy}" for policy, number in counts.most_common())
        yield f"Trials were trained by different policies ({listed}): their hours, and perhaps scores, are not alike."


def _policy(result: Mapping[str, Any]) -> str:
    """That of a trial's training, and those of what came before it."""
    earlier = [f" with {name} in {Policy(**how)}" for name, how in sorted(result.get("earlier_policies", {}).items())]
    return "".join([str(Policy(**result["policy"])), *earlier])


def _contended(trials: Sequence[Trial]) -> Iterable[str]:
    waiting = [t.number for t in trials if t.contended]
    if waiting:
        yield (
            f"{len(waiting)} of {len(trials)} runs waited for their cores (wall time above core time per thread by a "
            f"fifth): trial{'s' if len(waiting) > 1 else ''} {', '.join(map(str, waiting[:8]))}"
            f"{', ...' if len(waiting) > 8 else ''}. {_what_waiting_spoils(trials)}"
        )


def _what_waiting_spoils(trials: Sequence[Trial]) -> str:
    """Threads of one run wait for one another, some of them turning on the spot, which the CPU clock counts."""
    if any(t.contended and (t.threads or 1) > 1 for t in trials):
        return "Wall hours say little, nor do core hours where a run has several threads: use a slot for each core."
    return "Wall hours say little."


def _disagreement(rows: Sequence[Row]) -> Iterable[str]:
    """The pair of rows, if any, that stands furthest against its counted cost, beyond the interval of its hours.

    Other studies may have another recipe, and the hours of other threads are never compared.
    """
    worst: tuple[float, Row, Row] | None = None
    for a, b in combinations([row for row in rows if row.training_flops and all(row.hours.values())], 2):
        if (a.study, a.threads) != (b.study, b.threads):
            continue
        low, high = sorted((a, b), key=lambda row: row.training_flops or 0.0)
        if (high.training_flops or 0.0) < COUNTED_APART * (low.training_flops or 0.0):
            continue
        ratio = ratio_interval(low.hours, high.hours)
        if ratio.low is not None and ratio.low > 1 and (worst is None or ratio.mean > worst[0]):
            worst = (ratio.mean, low, high)
    if worst is not None:
        ratio_mean, low, high = worst
        counted = (low.training_flops or 0.0) / (high.training_flops or 1.0)
        yield (
            f"Measured hours and counted cost disagree: {low.name} counts {counted:.2f} times the FLOPs of {high.name} "
            f"and takes {ratio_mean:.2f} times its hours."
        )
