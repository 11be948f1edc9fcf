"""What the report says about each search: its result in the ledger, and its health held against random draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from naslab.efficiency.surroundings import random_states_kept
from naslab.nas.arms import Grid
from naslab.nas.health import HealthReport, assess
from naslab.runs.past import last_score
from naslab.runs.ranking import Ranking
from naslab.runs.rows import Row
from naslab.runs.study import Study
from naslab.runs.trial import Trial
from naslab.search_spaces import Configuration, RelaxableSpace

EMBEDDING = ("feature_std", "effective_rank")


def searches(trials: Sequence[Trial]) -> dict[str, Mapping[str, Any]]:
    """The result of every finished differentiable search, by a name that says arm and trial."""
    return {
        f"{t.job.arm} (trial {t.number})": t.result
        for t in trials
        if t.job.role == "search" and t.state == "complete" and t.result.get("trajectory")
    }


def health(study: Study, ranking: Ranking, trials: Sequence[Trial]) -> list[HealthReport]:
    """One report per arm that searches."""
    return [_assess(study, ranking, trials, arm.name) for arm in study.arms if not isinstance(arm, Grid)]


def random_scores(ranking: Ranking, trials: Sequence[Trial]) -> list[float]:
    """Metric of every random architecture that finished."""
    numbers = ranking.random.trials if ranking.random else ()
    return [t.scores[ranking.metric] for t in trials if t.number in numbers]


def _assess(study: Study, ranking: Ranking, trials: Sequence[Trial], arm: str) -> HealthReport:
    row = next((row for row in ranking.own_rows if arm in row.arms), None)
    finals = [t for t in trials if row is not None and t.number in row.trials]
    validation = [score for t in finals if (score := last_score(t, ranking.metric)) is not None]
    return assess(
        arm,
        tuple(row.metrics.values()) if row else (),
        random_scores(ranking, trials),
        search=_search_of(row, trials, arm),
        metric=ranking.metric,
        retrained=fmean(validation) if validation else None,
        genotype_skips=parameter_free_share(study, row.configuration) if row else None,
        embedding={
            name: fmean(t.scores[name] for t in finals)
            for name in EMBEDDING
            if finals and all(name in t.scores for t in finals)
        },
        sign=study.objective.sign,
        critical=ranking.critical,
        decimals=ranking.decimals,
    )


def _search_of(row: Row | None, trials: Sequence[Trial], arm: str) -> Mapping[str, Any] | None:
    """The arm's search that gave the row's genotype, or its last one."""
    found = [t.result for t in trials if t.job.arm == arm and t.job.role == "search" and t.result.get("trajectory")]
    wanted = row.configuration.as_dict() if row else None
    return next((result for result in found if result["genotype"] == wanted), found[-1] if found else None)


def parameter_free_share(study: Study, configuration: Configuration) -> float | None:
    """Share of the layers that could hold parameters in which the configuration has none; None where none could."""
    space = study.search_space
    if not isinstance(space, RelaxableSpace):
        return None
    chains = [chain for chain in space.chains() if chain.name in configuration]
    with random_states_kept():  # not on meta: its masks lie where its alphas do, and are read
        supernet = space.supernet(lambda alphas: alphas)
    free = []
    for chain in chains:
        mask = supernet.skipping(chain.name).tolist()
        chosen = [chain.choices.index(operation) for operation in configuration.chain(chain.name)]
        free += [layer[index] for layer, index in zip(mask, chosen, strict=True) if any(layer)]
    return fmean(free) if free else None
