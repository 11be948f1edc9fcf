"""Scores of frozen features: weighted kNN, linear probe, and what tells that an embedding has collapsed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PROBE_L2 = 1e-3
"""Weight of the probe's squared norm; on standardised features it only keeps separable data finite."""


def knn_accuracy(
    bank_x: Tensor, bank_y: Tensor, x: Tensor, y: Tensor, num_classes: int, k: int = 200, temperature: float = 0.1
) -> float:
    """Share of queries that a weighted kNN classifies right (Wu et al. 2018, section 3.4).

    Each of the k nearest neighbours by cosine similarity s votes for its class with weight exp(s / temperature).

    Args:
        bank_x, bank_y: labelled features (N, F) and classes (N,); k is cut to N. Labels below 0 are left out.
        x, y: queries (M, F) and their classes (M,).
    """
    labelled = bank_y >= 0
    bank, classes = F.normalize(bank_x[labelled].float(), dim=1), bank_y[labelled]
    right = 0
    for queries, truth in zip(F.normalize(x.float(), dim=1).split(1024), y.split(1024), strict=True):
        similarity, nearest = (queries @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(queries), num_classes, device=x.device)
        votes.scatter_add_(1, classes[nearest], (similarity / temperature).exp())
        right += int((votes.argmax(1) == truth).sum())
    return right / len(y)


def linear_probe_accuracy(
    bank_x: Tensor, bank_y: Tensor, x: Tensor, y: Tensor, num_classes: int, iterations: int = 100
) -> float:
    """Share of queries that multinomial logistic regression on the frozen features classifies right.

    Features are standardised by the bank's statistics; L-BFGS from zero on the whole bank, so deterministic.
    """
    labelled = bank_y >= 0
    train, classes = bank_x[labelled].float(), bank_y[labelled]
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    train, queries = (train - mean) / std, (x.float() - mean) / std
    weight, bias = fit_probe(train, classes, num_classes, iterations)
    return float(((queries @ weight + bias).argmax(1) == y).float().mean())


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


def feature_std(z_BD: Tensor) -> float:
    """Mean over channels of the deviation of the L2-normalised rows, times sqrt(D): 1 healthy, 0 collapsed.

    Chen & He 2021 (SimSiam), section 4.1.
    """
    normalised = F.normalize(z_BD.float(), dim=1)
    return float(normalised.std(0).mean() * z_BD.shape[1] ** 0.5)


def effective_rank(z_BD: Tensor) -> float:
    """exp of the entropy of the normalised singular values (RankMe, Garrido et al. 2023, equation 1)."""
    singular = torch.linalg.svdvals(z_BD.float())
    shares = singular / singular.sum().clamp(min=1e-12)
    entropy = -(shares * (shares + 1e-12).log()).sum()
    return float(entropy.exp())
