"""Which configuration to try next: a differentiable engine, ask-and-tell samplers and sweeps over one space."""

from nas.arms import Arm, Differentiable, Grid, Sampled
from nas.grid import grid_points
from nas.health import HealthReport, assess
from nas.sampling import Told, propose

__all__ = [
    "Arm",
    "Differentiable",
    "Grid",
    "HealthReport",
    "Sampled",
    "Told",
    "assess",
    "grid_points",
    "propose",
]
