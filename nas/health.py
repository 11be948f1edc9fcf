"""Health of a search: did it decide, did it collapse, and is what it found better than chance?

Random architectures often tie with differentiable search (Li & Talwalkar 2019; Yang et al. 2020), so no finding is
shown without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from naslab.nas.statistics import Critical, Interval, mean_interval, over_runs, student

COLLAPSED_STD, UNDECIDED_ENTROPY, SKIP_LIMIT = 0.2, 0.9, 0.5


@dataclass(frozen=True)
class HealthReport:
    """What can be said of one arm's search. Fields that do not apply, or have no data yet, are None.

    `difference` is the finalist's metric minus the random architectures' (Welch interval); `discretisation_gap` the
    supernet's validation score minus the retrained genotype's; `loss_gap` the one-hot supernet's loss minus the
    relaxed one's on the same batches.
    """

    arm: str
    verdict: str
    warnings: tuple[str, ...]
    finalist: Interval | None
    random: Interval | None
    difference: Interval | None
    entropy: tuple[float, ...] = ()
    skip_share: float | None = None
    parameter_free_share: float | None = None
    discretisation_gap: float | None = None
    loss_gap: float | None = None
    feature_std: float | None = None
    effective_rank: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def assess(
    arm: str,
    finalist: Sequence[float],
    random: Sequence[float],
    *,
    search: Mapping[str, Any] | None = None,
    metric: str = "",
    retrained: float | None = None,
    genotype_skips: float | None = None,
    embedding: Mapping[str, float] | None = None,
    sign: int = 1,
    critical: Critical = student,
    decimals: int = 2,
) -> HealthReport:
    """The health report of one arm.

    Args:
        finalist: metric of the arm's best configuration, one per seed.
        random: metric of the random architectures, one each.
        search: `SearchResult.to_dict()` of a differentiable arm.
        retrained: validation score of the retrained genotype, to hold against the supernet's.
        genotype_skips: share of the genotype's layers that have no parameters.
        embedding: `feature_std` and `effective_rank` of the retrained finalist.
        sign: -1 where less of the metric is better; the difference is positive where the finalist is better.
        critical: by how many standard errors intervals over seeds reach.
        decimals: with which the metric is written.
    """
    difference = over_runs(finalist, random, critical).scaled(sign) if finalist and random else None
    embedding = embedding or {}
    facts: dict[str, Any] = _search_facts(search, metric, retrained) if search else {}
    return HealthReport(
        arm=arm,
        verdict=_verdict(arm, finalist, random, difference, decimals),
        warnings=tuple(_warnings(facts, genotype_skips, embedding)),
        finalist=mean_interval(finalist, critical) if finalist else None,
        random=mean_interval(random) if random else None,
        difference=difference,
        parameter_free_share=genotype_skips,
        feature_std=embedding.get("feature_std"),
        effective_rank=embedding.get("effective_rank"),
        **facts,
    )


def _search_facts(search: Mapping[str, Any], metric: str, retrained: float | None) -> dict[str, Any]:
    trajectory = search["trajectory"]
    supernet = search["supernet_scores"].get(metric)
    return {
        "entropy": tuple(fmean(e for layers in epoch["entropy"].values() for e in layers) for epoch in trajectory),
        "skip_share": trajectory[-1]["skip_share"],
        "discretisation_gap": None if supernet is None or retrained is None else supernet - retrained,
        "loss_gap": search["discrete_loss"] - search["relaxed_loss"],
    }


def _verdict(
    arm: str, finalist: Sequence[float], random: Sequence[float], difference: Interval | None, decimals: int
) -> str:
    if not finalist:
        return f"{arm}: cannot tell: its finalist has no finished run"
    if difference is None:
        return f"{arm}: cannot tell: no random architecture was measured"
    if difference.low is None or difference.high is None:
        return f"{arm}: cannot tell: {len(finalist)} seeds against {len(random)} random architectures are too few"
    mean, low, high = (f"{value:+.{decimals}f}" for value in (difference.mean, difference.low, difference.high))
    bounds = f"{mean} [{low}, {high}]"
    if difference.low > 0:
        return f"{arm}: better than random architectures by {bounds}"
    if difference.high < 0:
        return f"{arm}: worse than random architectures: {bounds}"
    return f"{arm}: no better than random architectures: {bounds}"


def _warnings(facts: Mapping[str, Any], skips: float | None, embedding: Mapping[str, float]) -> list[str]:
    found = []
    if skips is not None and skips >= SKIP_LIMIT:
        what = f"{skips:.0%} of the layers that could hold a linear are parameter-free"
        known = "the search has collapsed to skips and poolings, the known failure of DARTS"
        found.append(f"{what}: {known}" if facts else f"{what}: what it found hardly transforms its input")
    if facts.get("entropy") and facts["entropy"][-1] > UNDECIDED_ENTROPY:
        found.append(
            f"the architecture parameters are undecided (entropy {facts['entropy'][-1]:.3f} of 1): the genotype hangs "
            "on small differences; give the arm more epochs, or a larger alpha.learning_rate"
        )
    if embedding.get("feature_std", 1.0) < COLLAPSED_STD:
        found.append(f"the embedding has collapsed (std {embedding['feature_std']:.2f}, healthy near 1)")
    return found
