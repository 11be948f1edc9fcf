import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from naslab.search_spaces.common.scores import effective_rank, feature_std, knn_accuracy, linear_probe_accuracy
from naslab.search_spaces.common.scores.probe import PROBE_L2, fit_probe


def test_weighted_knn_is_the_papers_vote():
    torch.manual_seed(0)
    bank, queries = torch.randn(40, 5), torch.randn(23, 5)
    bank_y, y = torch.randint(0, 4, (40,)), torch.randint(0, 4, (23,))
    right = 0
    for query, truth in zip(queries, y, strict=True):
        similarity = [(F.cosine_similarity(query, b, dim=0).item(), int(c)) for b, c in zip(bank, bank_y, strict=True)]
        votes = [0.0] * 4
        for s, c in sorted(similarity, reverse=True)[:7]:
            votes[c] += math.exp(s / 0.1)
        right += int(np.argmax(votes)) == int(truth)
    assert knn_accuracy(bank, bank_y, queries, y, 4, k=7, temperature=0.1) == pytest.approx(right / 23)


def test_knn_cuts_k_to_the_bank_and_leaves_out_what_has_no_label():
    bank, bank_y = torch.eye(3), torch.tensor([0, 1, -1])
    assert knn_accuracy(bank, bank_y, torch.eye(3)[:2], torch.tensor([0, 1]), 2, k=200) == 1.0


def test_the_probe_reaches_the_optimum():
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))

    def loss(flat):
        weight = torch.tensor(flat[:12]).reshape(4, 3).float()
        bias = torch.tensor(flat[12:]).float()
        return float(F.cross_entropy(x @ weight + bias, y) + PROBE_L2 * weight.square().sum())

    weight, bias = fit_probe(x, y, 3, 200)
    ours = loss(torch.cat([weight.flatten(), bias]).double().numpy())
    assert ours == pytest.approx(minimize(loss, np.zeros(15), method="Powell").fun, abs=2e-3)
    assert ours <= loss(np.zeros(15))


def test_the_probe_separates_what_can_be_separated():
    x = torch.cat([torch.randn(50, 3) + 6 * torch.eye(3)[c] for c in range(3)])
    y = torch.arange(3).repeat_interleave(50)
    assert linear_probe_accuracy(x, y, x, y, 3) > 0.97
    assert linear_probe_accuracy(x, y, x, y, 3) == linear_probe_accuracy(x, y, x, y, 3)


def test_collapse_metrics_know_both_ends():
    torch.manual_seed(0)
    healthy, collapsed = torch.randn(4000, 32), torch.ones(400, 32) + 1e-4 * torch.randn(400, 32)
    assert feature_std(healthy) == pytest.approx(1.0, abs=0.02)
    assert feature_std(collapsed) < 0.01
    assert effective_rank(healthy) > 30
    assert effective_rank(collapsed) == pytest.approx(1.0, abs=0.05)
    low = torch.randn(400, 3) @ torch.randn(3, 32)
    assert effective_rank(low) < 3.01


@pytest.mark.parametrize("temperature", [0.001, 0.005, 0.07])
def test_at_any_temperature_the_votes_are_finite(temperature):
    """Two neighbours outvote one at a high temperature, the nearest alone decides at a low one; none overflows."""
    bank = F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.5], [1.0, 0.5]]), dim=1)
    bank_y, query = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert knn_accuracy(bank, bank_y, query, torch.tensor([0]), 2, k=3, temperature=temperature) == 1.0
    assert knn_accuracy(bank, bank_y, query, torch.tensor([1]), 2, k=3, temperature=10.0) == 1.0
