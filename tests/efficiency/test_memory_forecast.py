"""The forecast of a training step against what the operating system says of a fresh process that runs it."""

import os
import signal
from functools import partial

import pytest
import torch
from torch import nn

from naslab.efficiency import InputError, forecast_peak_bytes
from naslab.efficiency.resident_memory import resident_memory


def convolutions(batch):
    """Few channels of large images: as much memory as many of small ones, and a quarter of the work."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers), torch.ones(batch, 3, 192, 192)


def encoder(batch):
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), torch.ones(batch, 128, 256)


def frozen():
    return nn.Linear(2, 2).requires_grad_(False), torch.ones(3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("build", [convolutions, encoder])
def test_training_steps_hold_what_was_forecast(build, monkeypatch):
    # The C library keeps freed blocks below a threshold that moves; pinned, it gives each tensor back when it is freed.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # each thread has working memory of its own
    forecast = forecast_peak_bytes(*build(2), 24, training=True)
    assert forecast > 3e8
    truth = resident_memory(partial(build, 24), training=True)
    assert truth.growth == pytest.approx(forecast, rel=0.25)
    assert truth.peak > truth.growth


@pytest.mark.slow
def test_nothing_to_train_is_said():
    with pytest.raises(InputError, match="nothing to train"):
        resident_memory(frozen, training=True)


def test_what_no_process_can_be_given_is_refused():
    with pytest.raises(InputError, match="cannot be made in a fresh process"):
        resident_memory(lambda: encoder(1))


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_not_waited_for():
    """As by a system that is out of memory."""
    with pytest.raises(InputError, match="the fresh process ended without an answer"):
        resident_memory(killed)


class Attention(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(64, 192)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("training", [False, True])
def test_attention_is_forecast_as_it_runs_fused(training):
    """No matrix of all pairs of tokens is held."""
    tokens, heads = 600, 2
    found = forecast_peak_bytes(Attention(), torch.ones(1, tokens, 64), 1, training=training)
    assert found < heads * tokens**2 * 4
