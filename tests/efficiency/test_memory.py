"""Peak memory on the CPU is exact accounting, so it is compared exactly."""

import torch
from torch import nn

from naslab.efficiency.memory import LiveBytes, parameter_bytes, peak_memory_bytes, quantised_weights


class TwoSteps(nn.Module):
    def forward(self, x):
        wide = x.repeat(1, 10)
        narrow = wide.sum(1, keepdim=True)
        del wide
        return narrow + 1


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias, self.weight = nn.Bilinear(2, 2, 2), nn.Linear(2, 2)


def test_a_layer_called_bias_is_no_packed_tensor():
    assert quantised_weights(Named()) == []


def test_peak_is_at_the_widest_point():
    x = torch.randn(7, 3)
    # Input, ten times the input, and the sum that was made while the wide one lived.
    assert peak_memory_bytes(TwoSteps(), x) == 4 * (21 + 210 + 7)


def test_views_hold_nothing_and_released_tensors_are_forgotten():
    with LiveBytes() as live:
        first = torch.zeros(100)
        view = first.view(10, 10).t()
        assert live.now == 400
        del first, view
        assert live.now == 0
        torch.zeros(30)
    assert live.peak == 400


def test_in_place_growth_is_seen():
    with LiveBytes() as live:
        x = torch.empty(0)
        x.resize_(25)
        assert live.now == 100


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert parameter_bytes(model) == 64
    with torch.no_grad():
        assert peak_memory_bytes(model, torch.ones(2, 4)) == 64 + 32 + 2 * 32


def test_intermediates_kept_for_backward_count():
    model = nn.Sequential(*(nn.Sigmoid() for _ in range(5)))
    x = torch.ones(10, requires_grad=True)
    with torch.no_grad():
        assert peak_memory_bytes(model, x) == 3 * 40
    assert peak_memory_bytes(model, x) == 6 * 40
