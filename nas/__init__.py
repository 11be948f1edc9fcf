"""Which configuration to try next: a differentiable engine and ask-and-tell samplers over one space."""

from nas.arms import Arm, Differentiable, Sampled
from nas.health import HealthReport, assess
from nas.sampling import Told, propose

__all__ = ["Arm", "Differentiable", "HealthReport", "Sampled", "Told", "assess", "propose"]
