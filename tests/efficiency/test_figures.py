"""The figures of a profile: those that are asked for, and no failure takes the rest along."""

import sys
import threading

import pytest
import torch
from small_models import LINEAR, Fn, batch, layer, profiled, summed_product
from torch import nn

from naslab.efficiency import InputError, profile
from naslab.efficiency.memory import parameter_bytes


class Evaluates(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = layer()

    def forward(self, x):
        assert not self.training, "evaluation only"
        return self.layer(x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: Fn(lambda f, x: f(x).exp().add_(1), layer()), "modified by an inplace operation"),
        (Evaluates, "AssertionError: evaluation only"),
        (lambda: Fn(lambda f, x: summed_product(f(x), torch.ones(16, 16)), layer()), "no autograd formula"),
        (lambda: Fn(lambda f, x: f(x).detach(), layer()), "no output has a gradient"),
        (lambda: nn.Sequential(layer(), nn.BatchNorm1d(16)), None),
    ],
)
def test_a_training_step_that_fails_leaves_the_rest(model, reason):
    found = profiled(model(), batch(), train=True)
    assert found.flops.forward == LINEAR
    assert found.latency_ms is not None
    assert found.peak_memory_bytes is not None
    if reason is None:
        assert found.missing == {}
        return
    assert found.flops.training_step is None
    assert found.training is None
    assert set(found.missing) == {"training_step", "training"}
    assert all(reason in text and "\n" not in text for text in found.missing.values())


def test_only_the_figures_that_are_asked_for():
    found = profiled(Evaluates(), batch(), only=("flops", "latency"))
    assert (found.flops.forward, found.flops.training_step, found.peak_memory_bytes) == (LINEAR, None, None)
    assert found.missing == {}
    found = profiled(layer(), batch(), only=("memory",))
    assert (found.flops.forward, found.latency_ms, found.coverage) == (None, None, None)
    with pytest.raises(
        InputError, match="no figure is called 'speed'; only takes flops, training_step, latency, memory"
    ):
        profiled(layer(), batch(), only=("speed",))


def test_functions_locks_and_wrong_batch_sizes():
    found = profiled(lambda x: x @ x.t(), batch())
    assert (found.flops.forward, found.missing) == (2 * 4 * 4 * 16, {"training_step": "no output has a gradient"})
    bound = layer()
    assert profiled(bound.forward, batch()).flops.training_step == 2 * LINEAR
    held = layer()
    held.lock = threading.Lock()
    assert profiled(held, batch(), train=True, memory_limit_bytes=2**30).missing.keys() <= {"memory_forecast"}
    with pytest.raises(InputError, match="a batch of -1 cannot be timed"):
        profiled(layer(), batch(), batch_sizes=(4, -1))
    with pytest.raises(InputError, match="a int cannot be called"):
        profiled(3, batch())


def test_a_model_that_exits_loses_its_figures_and_not_the_process():
    found = profiled(Fn(lambda linear, x: sys.exit(3), layer()), batch())
    assert found.missing["flops"] == found.missing["latency"] == "SystemExit: 3"


def test_a_lazy_module_without_a_shape_is_one_line():
    with pytest.raises(InputError, match="0 is lazy and has no shape yet; call the model on a batch first"):
        profile(nn.Sequential(nn.LazyLinear(16)), batch())


def test_the_batch_is_where_the_caller_says():
    found = profiled(nn.LSTM(64, 32), torch.randn(100, 4, 64), batch_dim=1)
    assert found.batch_size == 4
    assert found.throughput == pytest.approx(4e3 / found.latency_ms.median)
    with pytest.raises(InputError, match="batch dimension 3"):
        profiled(nn.LSTM(64, 32), torch.randn(100, 4, 64), batch_dim=3)


def test_number_formats_memory_formats_and_optimisers_of_a_profile():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    strides = model[0].weight.stride()
    found = profiled(
        model, torch.randn(2, 3, 8, 8), autocast=torch.bfloat16, channels_last=True, train=True, module_times=True
    )
    assert (found.dtype, found.autocast) == ("float32", "bfloat16")
    assert model[0].weight.stride() == strides
    assert all(row["ms"] > 0 for row in found.by_module.values())
    held = {
        name: profiled(model, torch.randn(2, 3, 8, 8), train=True, optimiser=name).training["memory_bytes"]
        for name in ("sgd", "adamw")
    }
    # AdamW keeps two numbers for each parameter and a step count for each tensor, SGD its momentum.
    weights = parameter_bytes(model)
    assert held["sgd"]["optimiser_state"] == weights
    assert held["adamw"]["optimiser_state"] == 2 * weights + 4 * 4
    with pytest.raises(InputError, match="optimiser: 'adamx' is unknown"):
        profiled(model, torch.randn(2, 3, 8, 8), train=True, optimiser="adamx")


EVERYTHING = {"train": True, "energy_seconds": 0.01, "batch_sizes": (1, 2), "memory_limit_bytes": 10**9,
              "predict_for": ["h100"], "module_times": True, "dtype": torch.bfloat16}  # fmt: skip
PARTS = {
    "flops": ("profiling.forward_count", lambda document: document["flops"]["forward"]),
    "training_step": ("profiling.training_count", lambda document: document["flops"]["training_step"]),
    "latency": ("profiling.measure_latency", lambda document: document["latency_ms"]),
    "memory": ("profiling.peak_memory", lambda document: document["peak_memory_bytes"]),
    "training": ("profile_parts.training_part", lambda document: document["training"]),
    "energy": ("profile_parts.energy_part", lambda document: document["energy"]),
    "batch_sweep": ("profile_parts.sweep_part", lambda document: document["batch_sweep"]),
    "memory_forecast": ("profile_parts.forecast_part", lambda document: document["memory_forecast"]),
    "prediction_for_h100-sxm": ("profiling.predict", lambda document: document["predicted"].get("h100-sxm")),
    "module_times": ("profiling.measure_module_times", lambda document: document["by_module"][""]["ms"]),
    "roofline": ("profile_parts.roofline_part", lambda document: document["roofline"]),
    "achieved": ("profile_parts.achieved_part", lambda document: document["achieved"]),
}


@pytest.mark.parametrize("broken", PARTS)
def test_a_broken_figure_takes_no_other_along(broken, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(f"naslab.efficiency.{PARTS[broken][0]}", fail)
    document = profiled(layer(), batch(), **EVERYTHING).to_dict()
    assert document["missing"] == {broken: "RuntimeError: broken on purpose"}
    # A time without its latency or without its count has no rate, and the roofline of this test is not calibrated.
    rests_on_it = {"latency": {"achieved"}, "flops": {"achieved", "module_times"}}.get(broken, set())
    there = PARTS.keys() - {broken, "roofline"} - rests_on_it
    assert {name for name in there if PARTS[name][1](document) is None} == set()
    assert PARTS[broken][1](document) is None
