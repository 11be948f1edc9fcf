"""What published training runs sustained of their devices' peak: the only evidence for a device never measured.

Every figure is a table's wall-clock time against the counted work of the configuration it names. The three systems lie
a factor of ten apart, so a prediction from them is an order of magnitude, and its interval says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from naslab.efficiency.flop_count import FlopCount
from naslab.efficiency.gpus import DeviceSpec, find_gpu
from naslab.efficiency.prediction import Prediction


@dataclass(frozen=True)
class PublishedRun:
    """Half-precision training. `sustained_flops` is FLOPs a second for one whole chip."""

    source: str
    device: str
    dtype: str
    sustained_flops: float

    @property
    def utilisation(self) -> float:
        """Share of the data sheet's peak."""
        return self.sustained_flops / find_gpu(self.device).peak_flops[self.dtype]


PUBLISHED = (
    PublishedRun("MAE (He et al. 2021), table 2, six ViT-L and ViT-H runs", "tpu-v3", "bfloat16", 2 * 19.5e12),
    PublishedRun("MAE's PyTorch version, ViT-L, 800 epochs in 42 h on 64 V100", "v100-32", "float16", 13.2e12),
    PublishedRun("MAE-ST (Feichtenhofer et al. 2022), table 1, compute hours", "a100-80", "bfloat16", 9.6e12),
)
BASIS = "data sheet, at the share of its peak that 3 published training runs sustained on other devices"


LAUNCH_SECONDS = 5e-6
"""What the host needs, in order of magnitude, to launch one operation of an eager model on a GPU: a small model waits
for its host.
"""


def predict_published(counted: FlopCount, spec: DeviceSpec, dtype: str, bound_seconds: float) -> Prediction:
    """Seconds of a step on a device known from its data sheet only: its FLOPs at the share of the peak that published
    training sustained, but no less than its bound under the roof, or than the host needs to launch its operations.

    The interval is wide enough to hold each published system when it is predicted from the other two.
    """
    typical = _geometric_mean([run.utilisation for run in PUBLISHED])
    sustained = counted.total / (spec.peak_flops[dtype] * typical)
    seconds = max(sustained, bound_seconds, len(counted.operations) * LAUNCH_SECONDS)
    factor = max(left_out_factors())
    return Prediction(seconds, max(seconds / factor, bound_seconds), seconds * factor)


def left_out_factors() -> list[float]:
    """By what factor each published system is missed when it is predicted from the others."""
    factors = []
    for run in PUBLISHED:
        others = _geometric_mean([other.utilisation for other in PUBLISHED if other is not run])
        factors.append(math.exp(abs(math.log(run.utilisation / others))))
    return factors


def _geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
