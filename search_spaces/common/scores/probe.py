"""The linear probe: logistic regression on frozen features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.search_spaces.common.scores.accuracy import accuracy

PROBE_L2 = 1e-3
"""Weight of the probe's squared norm; on standardised features it only keeps separable data finite."""


def linear_probe_accuracy(
    bank_x: Tensor, bank_y: Tensor, x: Tensor, y: Tensor, num_classes: int, iterations: int = 100
) -> float:
    """Share of queries that multinomial logistic regression on the frozen features classifies right.

    Features are standardised by the bank's statistics; L-BFGS from zero on the whole bank, so deterministic.
    """
    labelled = bank_y >= 0
    train, classes = bank_x[labelled].float(), bank_y[labelled]
    mean, std = train.mean(0), _deviation(train)
    train, queries = (train - mean) / std, (x.float() - mean) / std
    weight, bias = fit_probe(train, classes, num_classes, iterations)
    return accuracy(queries @ weight + bias, y)


def _deviation(x: Tensor) -> Tensor:
    """Of each feature; of a single row, which has none, 1."""
    return x.std(0).clamp(min=1e-6) if len(x) > 1 else torch.ones_like(x[0])


def fit_probe(x: Tensor, y: Tensor, num_classes: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Weight (F, classes) and bias that minimise cross entropy + PROBE_L2 |weight|^2."""
    weight = torch.zeros(x.shape[1], num_classes, device=x.device, requires_grad=True)
    bias = torch.zeros(num_classes, device=x.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(x @ weight + bias, y) + PROBE_L2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return weight.detach(), bias.detach()
