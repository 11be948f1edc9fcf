"""The report's first sentence: which configuration is worth its hours, or that none is shown to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from naslab.nas.statistics import Interval, difference_interval
from naslab.runs.output import significant_digits
from naslab.runs.ranking import Ranking
from naslab.runs.rows import Baseline, Row


@dataclass(frozen=True)
class Answer:
    """One sentence that answers the study's question, and what a reader should know before acting on it."""

    sentence: str
    caveats: tuple[str, ...] = ()


def answer(ranking: Ranking, random_scores: Sequence[float]) -> Answer:
    """Say what the ranking shows, no more.

    Args:
        random_scores: metric of the random architectures, one each.
    """
    ranked = [row for row in ranking.rows if row.rank is not None]
    if not ranking.rows:
        return Answer("No configuration has finished yet, so nothing can be said.")
    if not ranked:
        return Answer(_nothing_ranked(ranking))
    best, reference = ranked[0], ranking.reference
    caveats = (
        *_against_controls(best, ranking),
        *_against_random(best, ranking, random_scores),
        *_few_seeds(ranked),
    )
    if ranking.objective.kind == "pareto":
        return Answer(_on_the_front(ranked, ranking), caveats)
    if reference is None:
        return Answer(f"{best.name} leads with {_score(best, ranking)}; the reference has no finished run.", caveats)
    if len(ranking.rows) == 1:
        return Answer("Only the reference has finished, so there is nothing to hold against it yet.", caveats)
    if reference.rank == 1:
        return Answer(_nothing_better(ranked, reference, ranking), caveats)
    return Answer(_better(best, reference, ranking), caveats)


def unit(ranking: Ranking) -> str:
    """The cost unit in words, singular."""
    return "GPU hour" if ranking.cost_unit == "gpu_hours" else "CPU hour"


def _nothing_ranked(ranking: Ranking) -> str:
    breaking = "The reference breaks a constraint" if any(row.breaks for row in ranking.rows) else ""
    below = [row for row in ranking.rows if not row.breaks]
    if not below:
        return f"{breaking}, and no other configuration is ranked."
    short = f"no configuration reaches the floor of {ranking.floor:.2f} {ranking.metric}."
    return f"{breaking}, and {short}" if breaking else f"{short[0].upper()}{short[1:]}"


def _score(row: Row, ranking: Ranking) -> str:
    return f"{significant_digits(row.score.mean)} {ranking.metric} per {unit(ranking)}"


def _nothing_better(ranked: Sequence[Row], reference: Row, ranking: Ranking) -> str:
    tied = [row.name for row in ranked if row.rank == 1 and row is not reference]
    if not tied:
        return f"Nothing is better than the reference, which gives {_score(reference, ranking)}."
    listed = ", ".join(tied)
    return f"Nothing is shown to be better than the reference: the data cannot tell {listed} apart from it."


def _on_the_front(ranked: Sequence[Row], ranking: Ranking) -> str:
    front = [row for row in ranked if row.rank == 1]
    if not front:
        return f"No configuration has a known {ranking.against} yet, so there is no front."
    listed = ", ".join(f"{row.name} ({row.metric.mean:.2f})" for row in front)
    only = "is" if len(front) == 1 else "are"
    return f"On the front of {ranking.metric} against {ranking.against} {only}, from the cheapest: {listed}."


def _better(best: Row, reference: Row, ranking: Ranking) -> str:
    gain = difference_interval(best.scores_by_seed, reference.scores_by_seed)
    metric = difference_interval(best.metrics_by_seed, reference.metrics_by_seed)
    tied = [row.name for row in ranking.rows if row.rank == 1 and row is not best]
    if not _excludes_zero(gain):
        return f"{best.name} leads with {_score(best, ranking)}, but the data cannot tell it from the reference."
    also = f" (the data cannot tell {', '.join(tied)} apart from it)" if tied else ""
    return (
        f"{best.name} is worth its hours{also}: {_score(best, ranking)} against the reference's "
        f"{significant_digits(reference.score.mean)}, and its {ranking.metric} is {abs(metric.mean):.2f} "
        f"{'higher' if metric.mean >= 0 else 'lower'}."
    )


def _against_controls(best: Row, ranking: Ranking) -> tuple[str, ...]:
    as_good = [control for control in ranking.controls if control.metric.mean >= best.metric.mean]
    return tuple(_as_good(control, best) for control in as_good)


def _as_good(control: Baseline, best: Row) -> str:
    name, score = control.name.replace("_", " "), f"{control.metric.mean:.2f}"
    if control.trained is False:
        return (
            f"The control {name} scores {score} without training, {best.name} {best.metric.mean:.2f}: training has "
            "gained nothing."
        )
    how = ", which is trained too," if control.trained else ""
    return (
        f"The control {name}{how} scores {score}, {best.name} {best.metric.mean:.2f}: what the control leaves out has "
        "gained nothing."
    )


def _against_random(best: Row, ranking: Ranking, random_scores: Sequence[float]) -> tuple[str, ...]:
    if not random_scores and not any(arm.search_hours for arm in ranking.arms):
        return ()  # nothing was searched, so nothing was picked by luck in a search
    if not random_scores:
        return ("No random architecture was measured, so luck cannot be ruled out.",)
    difference = difference_interval(best.metrics_by_seed, random_scores)
    if difference.low is not None and difference.low > 0:
        return ()
    shown = f"{difference.mean:+.2f}"
    if difference.low is not None and difference.high is not None:
        shown += f", 95 % interval {difference.low:+.2f} to {difference.high:+.2f}"
    return (f"In {ranking.metric}, {best.name} is not shown to be better than random architectures ({shown}).",)


def _few_seeds(rows: Sequence[Row]) -> tuple[str, ...]:
    if all(len(row.seeds) > 1 for row in rows):
        return ()
    return ("With one seed nothing can be told apart; run more seeds.",)


def _excludes_zero(interval: Interval) -> bool:
    return interval.low is not None and interval.high is not None and not interval.low <= 0 <= interval.high
