"""What a study would do, known before it runs."""

from __future__ import annotations

from typing import Any

from naslab.nas.arms import Grid
from naslab.nas.grid import describe_point
from naslab.nas.verdict import tellable
from naslab.runs.constraints import COUNTED, find_costs
from naslab.runs.study import Study
from naslab.search_spaces import Configuration, Task


def breaks(study: Study, task: Task) -> list[dict[str, Any]]:
    """The reference and the points of grids that break a constraint on what can be counted without running them."""
    limits, space = study.constraints, study.search_space
    wanted = [cost for cost in COUNTED if cost in limits.limits]
    named: dict[Configuration, tuple[str | None, str]] = {}
    if wanted:
        named[space.reference] = (None, "reference")
        for arm in (arm for arm in study.arms if isinstance(arm, Grid)):
            for point in study.grids[arm.name]:
                named.setdefault(point, (arm.name, f"{arm.name} {describe_point(arm, point)}"))
    found = []
    for configuration, (arm_name, name) in named.items():
        for check in limits.judge(find_costs(wanted, space, configuration, task, limits.batch_size)):
            if check.broken:
                where = {"arm": arm_name, "name": name, "configuration": configuration.as_dict()}
                found.append({**where, "constraint": check.constraint, "value": check.value, "limit": check.limit})
    return found


def seed_advice(study: Study) -> dict[str, Any]:
    """Which difference to the reference the seeds tell nine times in ten, in standard deviations of the difference.

    The deviation is that between seeds, of the difference in pairs of the same seed; it is known after the first runs,
    when `naslab rank` says the same in the metric's own unit.
    """
    first, most = len(study.seeds), study.race_to or len(study.seeds)
    tells = {n: tellable(1.0, n, study.critical) if n > 1 else None for n in (first, most)}
    return {"first": first, "most": most, "first_tells": tells[first], "most_tells": tells[most]}


def seed_words(advice: dict[str, Any]) -> str:
    """The advice in a line."""
    if advice["first_tells"] is None:
        return "seeds: one run of each tells nothing apart; use more"
    text = (
        f"seeds: {advice['first']} tell a difference of {advice['first_tells']:.1f} standard deviations between seeds"
    )
    if advice["most"] > advice["first"]:
        text += f", the {advice['most']} that a race may use {advice['most_tells']:.1f}"
    return f"{text} (nine times in ten)"
