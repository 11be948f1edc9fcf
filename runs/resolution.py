"""What a study's seeds can tell: how large a difference to the floor, and how many more would tell the margin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from naslab.nas.statistics import spread_of_difference
from naslab.nas.verdict import MOST_SEEDS, seeds_to_tell, tellable
from naslab.runs.rows import Row
from naslab.runs.standing import Standing


def resolution(standing: Standing, rows: Sequence[Row]) -> str:
    """What difference to the floor these rows can tell, and how many more seeds would tell the margin.

    In a race of seeds they have more than others: the row with the fewest pairs of seeds speaks for all.
    """
    known = [
        (spread, _seeds_beside(row.metrics, floor))
        for row in rows
        if (floor := _floor_beside(row, standing)) and (spread := spread_of_difference(row.metrics, floor))
    ]
    if not known:
        return ""
    typical, seeds = math.sqrt(fmean(spread**2 for spread, _ in known)), min(number for _, number in known)
    told = tellable(typical, seeds, standing.critical)
    if math.isinf(told):
        return f" {seeds} seeds are fewer than the race of seeds begins with."
    text = f" With {seeds} seeds the study tells differences of about {told:.2g}"
    wanted = seeds_to_tell(typical, standing.margin) if standing.margin else None
    if wanted is not None and wanted > seeds:
        more = "1 more seed" if wanted - seeds == 1 else f"{wanted - seeds} more seeds"
        return f"{text}; {more} each would tell {standing.margin:.3g}."
    if wanted is None and standing.margin:
        return f"{text}; {MOST_SEEDS:,} seeds each would not tell {standing.margin:.3g}."
    return f"{text}."


def _floor_beside(row: Row, standing: Standing) -> Mapping[int, float]:
    """What `row` is held against: by seed, or by numbers that are no seeds where it is several runs of a baseline."""
    if standing.floor is None or standing.floor_of == "reference":
        return standing.reference.metrics if standing.reference else {}
    values = next((one.values for one in standing.baselines if one.name == standing.floor_of), ())
    if len(values) > 1:
        return dict(zip(range(-len(values), 0), values, strict=True))
    return dict.fromkeys(row.metrics, standing.floor)


def _seeds_beside(values: Mapping[int, float], floor: Mapping[int, float]) -> int:
    """Pairs of seeds of both; where they share none, of the one that has fewer."""
    shared = len(values.keys() & floor.keys())
    return shared if shared > 1 else min(len(values), len(floor))
