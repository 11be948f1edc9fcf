"""Training steps: their time, their memory, and forecasts of it."""

import copy

import pytest
import timm
import torch
from torch import nn

from naslab.efficiency import InputError
from naslab.efficiency.batch_sweep import sweep_batch_sizes
from naslab.efficiency.memory import LiveBytes
from naslab.efficiency.memory_forecast import forecast, forecast_peak_bytes, largest_batch
from naslab.efficiency.resident_memory import resident_memory
from naslab.efficiency.training_memory import training_memory
from naslab.efficiency.training_step import NoTrainingStep, measure_training_step, training_step_function


def network():
    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.Dropout(0.3), nn.ReLU(), nn.Linear(128, 4))


def wide():
    return nn.Sequential(*(nn.Linear(1500, 1500) for _ in range(6))), torch.randn(6000, 1500)


def test_parts_and_whole_are_timed_and_the_model_is_left_alone(hand):
    """Forward takes 4 ms by the hand-moved clock, backward 8 and the optimiser 2."""

    def forward_and_backward(module, inputs, output):
        hand.work(0.004)
        output.register_hook(lambda gradient: hand.work(0.008))

    def optimiser(parameters):
        made = torch.optim.AdamW(parameters)
        made.register_step_post_hook(lambda *_: hand.work(0.002))
        return made

    model = network().eval()
    model.register_forward_hook(forward_and_backward)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    step = measure_training_step(model, inputs, optimiser=optimiser, max_seconds=0.2)
    parts = (step.forward, step.backward, step.optimiser, step.step)
    assert all(len(part.samples_ms) >= 10 for part in parts)
    assert [part.median for part in parts] == pytest.approx([4.0, 8.0, 2.0, 14.0], abs=0.01)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training


def test_nothing_to_train_has_no_step():
    assert measure_training_step(nn.ReLU(), torch.randn(3, 4)) is None
    assert measure_training_step(network(), torch.randn(1, 64)) is None
    assert training_memory(nn.ReLU(), torch.randn(3, 4)) is None


def test_memory_is_split_exactly():
    model, inputs = nn.Linear(64, 32, bias=False), torch.randn(8, 64)
    held = training_memory(model, inputs)
    weights = 4 * 64 * 32
    assert (held.parameters, held.inputs) == (weights, 4 * 8 * 64)
    assert held.gradients == weights
    assert 2 * weights <= held.optimiser_state <= 2 * weights + 16
    assert held.peak == held.parameters + held.gradients + held.optimiser_state + held.inputs + held.activations
    assert training_memory(copy.deepcopy(model).to("meta"), inputs.to("meta")) == held


def test_shared_parameters_are_held_once():
    first = nn.Linear(64, 64, bias=False)
    second = nn.Linear(64, 64, bias=False)
    second.weight = first.weight
    assert training_memory(nn.Sequential(first, second), torch.randn(2, 64)).parameters == 4 * 64 * 64


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_forecast_of_another_batch_is_what_the_run_then_holds(name, training):
    model = timm.create_model(name, **({"img_size": 64} if "vit" in name else {}))
    small, large = torch.randn(2, 3, 64, 64), torch.randn(9, 3, 64, 64)
    forecast = forecast_peak_bytes(model, small, 9, training=training)
    truth = training_memory(model, large).peak if training else forecast_peak_bytes(model, large, 9, training=False)
    assert forecast == pytest.approx(truth, rel=0.01)


@pytest.mark.slow
def test_forecast_against_the_resident_memory_of_a_fresh_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # each thread has working memory of its own
    model, inputs = wide()
    forecast = forecast_peak_bytes(model, inputs[:2], 6000, training=False)
    assert resident_memory(wide).growth == pytest.approx(forecast, rel=0.3)


def test_largest_batch_is_the_last_that_fits():
    model, inputs = network(), torch.randn(4, 64)
    limit = 3_000_000
    largest = largest_batch(model, inputs, limit, training=True)
    assert forecast_peak_bytes(model, inputs, largest, training=True) <= limit
    assert forecast_peak_bytes(model, inputs, largest + 1, training=True) > limit
    assert largest_batch(model, inputs, 1000, training=False) == 0


@pytest.mark.parametrize("training", [False, True])
def test_the_search_for_the_largest_batch_agrees_with_trying_all(training):
    model, inputs = network(), torch.randn(4, 64)
    peaks = {n: forecast_peak_bytes(model, inputs, n, training=training) for n in range(2, 32)}
    for limit in (peaks[2] - 1, peaks[2], peaks[3] + 1, peaks[17], peaks[29] + 5):
        truth = max((n for n, peak in peaks.items() if peak <= limit), default=0)
        found = forecast(model, inputs, limit, training=training)
        if truth:
            assert (found.largest_batch, found.largest_peak_bytes) == (truth, peaks[truth])
        assert found.fits == (peaks[4] <= limit)


def test_a_forecast_copies_no_weights():
    model = nn.Linear(64, 64).requires_grad_(True)
    model.tied = model.weight
    before = [p.data_ptr() for p in model.parameters()]
    with LiveBytes() as live:
        forecast_peak_bytes(model, torch.randn(4, 64), 8, training=False)
    assert live.peak < 64 * 64 * 4 + 3 * 8 * 64 * 4 + 64 * 4 * 2  # counted, on meta: one set of weights
    assert [p.data_ptr() for p in model.parameters()] == before


def test_a_whole_step_as_a_function_trains_and_refuses_with_a_reason():
    model, inputs = network(), torch.randn(8, 64)
    before = copy.deepcopy(model.state_dict())
    training_step_function(model, inputs)()
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(NoTrainingStep, match="no parameter wants a gradient"):
        training_step_function(nn.ReLU(), inputs)
    with pytest.raises(NoTrainingStep, match="more than 1 value per channel"):
        training_step_function(network(), inputs[:1])


def test_what_does_not_run_on_meta_is_said():
    class DataDependent(nn.Module):
        def forward(self, inputs):
            return inputs[inputs > 0]

    with pytest.raises(InputError, match="does not run on meta tensors"):
        forecast_peak_bytes(DataDependent(), torch.randn(4, 3), 8, training=False)


def test_the_sweep_finds_the_knee_and_survives_a_batch_that_does_not_fit():
    def inputs_of(size):
        if size > 64:
            raise MemoryError("too large")
        return torch.randn(size, 64)

    swept = sweep_batch_sizes(network().eval(), inputs_of, (1, 8, 64, 512), max_seconds=0.2)
    assert [row.batch_size for row in swept.rows] == [1, 8, 64]
    assert swept.out_of_memory == 512
    best = max(row.throughput for row in swept.rows)
    knee = next(row for row in swept.rows if row.batch_size == swept.knee)
    assert knee.throughput >= 0.95 * best
    with pytest.raises(MemoryError, match="a batch of 65 does not fit"):
        sweep_batch_sizes(network(), inputs_of, (65,))
