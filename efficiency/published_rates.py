"""The share of the roof that published runs reached: the evidence for a device without measured steps.

`published_runs.json` holds published times of training and inference beside the counted step of the configuration that
they name; `benchmarks/published_runs.py` makes it. A step elsewhere is taken to reach the share of its roof that is
typical of them. Each source is predicted from all the others, and those errors give the interval.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from naslab.efficiency.flop_count import FlopCount
from naslab.efficiency.prediction import COVERAGE, Prediction

SCHEMA = "naslab.published_runs/1"
PATH = Path(__file__).parent / "published_runs.json"
LAUNCH_SECONDS = 5e-6
"""What the host needs, in order of magnitude, to launch one operation of an eager model on a GPU: a small model waits
for its host.
"""


@dataclass(frozen=True)
class PublishedRun:
    """Seconds of one step on one device in half precision, its counted FLOPs and operations, and the least time that
    the data sheet's roof allows for them.
    """

    source: str
    name: str
    device: str
    dtype: str
    training: bool
    seconds: float
    flops: int
    bound_seconds: float
    operations: int

    @property
    def share(self) -> float:
        """Share of the roof that it reached."""
        return self.bound_seconds / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Rate:
    """The typical share of the roof, and the ends of the interval of measured over predicted time."""

    share: float
    low: float
    high: float
    runs: int
    sources: int


@functools.cache
def published_runs() -> tuple[PublishedRun, ...]:
    """All of them."""
    return tuple(PublishedRun(**run) for run in json.loads(PATH.read_text(encoding="utf-8"))["runs"])


@functools.cache
def published_rate(training: bool) -> Rate:
    """The rate of training steps, or of inference."""
    return rate_of([run for run in published_runs() if run.training == training])


def published_basis() -> str:
    """Where predictions at these rates come from."""
    training, inference = published_rate(True), published_rate(False)
    return (
        f"data sheet, at the share of its roof that published runs reached: {training.runs} training runs of "
        f"{training.sources} sources, {inference.runs} inferences of {inference.sources}"
    )


def rate_of(runs: Sequence[PublishedRun]) -> Rate:
    """The rate of some runs; its interval holds 90 % of them, each predicted from the other sources."""
    ratios = sorted(left_out_ratios(runs))
    cut = max(math.floor((1 - COVERAGE) / 2 * (len(ratios) + 1)), 1)
    return Rate(_typical(runs), ratios[cut - 1], ratios[-cut], len(runs), len(_by_source(runs)))


def left_out_ratios(runs: Sequence[PublishedRun]) -> list[float]:
    """Measured over predicted time of each run, predicted from the other sources."""
    typical = {source: _typical([run for run in runs if run.source != source]) for source in _by_source(runs)}
    return [typical[run.source] / run.share for run in runs]


def back_test(runs: Sequence[PublishedRun]) -> dict[str, Any]:
    """How often the interval that the other sources give holds a run of a source left out altogether. It takes three
    sources to leave one out and still have an interval (`left_out`).
    """
    rows: list[dict[str, Any]] = []
    left_out = len(_by_source(runs)) > 2
    for source, own in _by_source(runs).items():
        others = [run for run in runs if run.source != source]
        rate = rate_of(others if left_out else runs)
        for run in own:
            ratio = (rate.share if left_out else _typical(others)) / run.share
            facts = {"source": source, "name": run.name, "device": run.device, "share": run.share}
            rows.append(facts | {"measured_over_predicted": ratio, "held": rate.low <= ratio <= rate.high})
    held = sum(row["held"] for row in rows) / len(rows)
    return {"rate": asdict(rate_of(runs)), "left_out": left_out, "held": held, "rows": rows}


def predict_published(counted: FlopCount, bound_seconds: float, *, training: bool) -> Prediction:
    """Seconds of a step on a device known from its data sheet only: its bound under the roof at the typical share, but
    no less than the host needs to launch its operations.
    """
    rate = published_rate(training)
    seconds = max(bound_seconds / rate.share, len(counted.operations) * LAUNCH_SECONDS)
    return Prediction(seconds, max(seconds * rate.low, bound_seconds), seconds * rate.high)


def _typical(runs: Sequence[PublishedRun]) -> float:
    """The geometric mean over sources of the geometric mean of each, so that no table outweighs the others."""
    return _geometric_mean([_geometric_mean([run.share for run in own]) for own in _by_source(runs).values()])


def _by_source(runs: Sequence[PublishedRun]) -> Mapping[str, list[PublishedRun]]:
    sources: dict[str, list[PublishedRun]] = {}
    for run in runs:
        sources.setdefault(run.source, []).append(run)
    return sources


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
