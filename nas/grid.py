"""The points of a sweep: a product of values around the space's reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from naslab.errors import InputError
from naslab.nas.arms import Grid
from naslab.search_spaces import Configuration, SearchSpace

MAX_POINTS = 10_000
"""A product that is larger is taken for a slip."""


def grid_points(arm: Grid, space: SearchSpace) -> tuple[Configuration, ...]:
    """Every point of the arm once, in the order of the product, the last parameter varying fastest.

    A point has the varied values, else those of `base`, else the reference's. What `base` or the reference say of a
    parameter that does not apply to a point (`Parameter.when`) is left out there. Points that the space maps onto one
    another are one point; one that equals the reference is among them.

    Raises:
        InputError: an unknown parameter, one that is both varied and in `base`, one in `base` that applies to no
            point, too many points, or a point that the space refuses.
    """
    _check_names(arm, space)
    points: dict[Configuration, None] = {}
    used: set[str] = set()
    for values in itertools.product(*arm.vary.values()):
        varied = dict(zip(arm.vary, values, strict=True))
        given = _applicable(space, {**space.reference, **arm.base, **varied}, varied)
        used |= given.keys()
        try:
            points[space.configuration(given)] = None
        except InputError as error:
            at = ", ".join(f"{name}={value}" for name, value in varied.items())
            raise InputError(f"arm {arm.name}: point {at}: {error}") from None
    for name in arm.base:
        if name not in used:
            raise InputError(f"arm {arm.name}: base.{name}: applies to no point of this grid; take it out")
    return tuple(points)


def _check_names(arm: Grid, space: SearchSpace) -> None:
    known = [parameter.name for parameter in space.parameters]
    for key, names in (("vary", arm.vary), ("base", arm.base)):
        for name in names:
            if name not in known:
                raise InputError(
                    f"arm {arm.name}: {key}.{name}: unknown parameter of space {space.name}; it has {', '.join(known)}"
                )
    for name in arm.base:
        if name in arm.vary:
            raise InputError(f"arm {arm.name}: base.{name}: is varied, too; keep it in one of vary and base")
    number = math.prod(len(values) for values in arm.vary.values())
    if number > MAX_POINTS:
        raise InputError(f"arm {arm.name}: vary: {number} points; at most {MAX_POINTS} in one grid")


def _applicable(space: SearchSpace, values: Mapping[str, Any], varied: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without those that were not asked for at this very point and do not apply to it."""
    chosen: dict[str, Any] = {}
    for parameter in space.parameters:
        applies = parameter.when is None or parameter.when.holds(chosen)
        if parameter.name in values and (applies or parameter.name in varied):
            chosen[parameter.name] = values[parameter.name]
    return chosen


def describe_point(arm: Grid, configuration: Configuration) -> str:
    """The varied values of a point, such as `masking_ratio=0.5`; those that the point does not have are left out."""
    return ", ".join(f"{name}={_word(configuration[name])}" for name in arm.vary if name in configuration)


def _word(value: object) -> str:
    return "·".join(map(str, value)) if isinstance(value, tuple) else str(value)
