"""Which configuration to try next: a differentiable engine, ask-and-tell samplers and sweeps over one space."""

from naslab.nas.arms import Arm, Differentiable, Grid, Sampled
from naslab.nas.grid import grid_points
from naslab.nas.health import HealthReport, assess
from naslab.nas.sampling import Observation, propose

__all__ = [
    "Arm",
    "Differentiable",
    "Grid",
    "HealthReport",
    "Observation",
    "Sampled",
    "assess",
    "grid_points",
    "propose",
]
