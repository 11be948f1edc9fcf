"""The linear probe: logistic regression on frozen features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.search_spaces.common.scores.accuracy import accuracy
from naslab.search_spaces.task import TrainingDiverged

PROBE_L2 = 1e-3
"""Weight of the probe's squared norm; on standardised features it only keeps separable data finite."""
ITERATIONS = 100
"""Of L-BFGS."""
ON_HOST = 10**8
"""Multiply-adds of one pass over the bank up to which the host fits the probe: L-BFGS is ten thousands of operations in
sequence, of a few numbers each. On a GPU each waits for its launch, and where trials share the GPU for their turns too:
a probe of 4,000 rows took ten times its training."""


def linear_probe_accuracy(bank_x: Tensor, bank_y: Tensor, x: Tensor, y: Tensor, num_classes: int) -> float:
    """Share of queries that multinomial logistic regression on the frozen features classifies right.

    Features are standardised by the bank's statistics; L-BFGS from zero on the whole bank, so deterministic. A small
    bank is fitted on the host, wherever its features were made.

    Raises:
        TrainingDiverged: a feature is not finite, or so large that standardising it overflows.
    """
    if bank_x.numel() * num_classes <= ON_HOST:
        bank_x, bank_y, x, y = (tensor.cpu() for tensor in (bank_x, bank_y, x, y))
    labelled = bank_y >= 0
    train, classes = bank_x[labelled].float(), bank_y[labelled]
    mean, std = train.mean(0), _deviation(train)
    train, queries = (train - mean) / std, (x.float() - mean) / std
    if not bool(train.isfinite().all() & queries.isfinite().all()):
        raise TrainingDiverged("the features that the model gives are not finite, or too large to tell apart")
    weight, bias = fit_probe(train, classes, num_classes, ITERATIONS)
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
