"""What a study would do, known before it runs."""

from __future__ import annotations

from typing import Any

from naslab.nas.arms import Grid
from naslab.nas.grid import describe_point
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
