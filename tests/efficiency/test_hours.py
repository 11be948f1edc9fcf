"""Predicted hours of runs and of whole studies: arithmetic, what does not fit, and refusals that are passed on."""

import pytest
import torch
from torch import nn

from naslab.efficiency import Hours, InputError, count_training_step, find_gpu, run_hours, study_hours
from naslab.efficiency.memory_forecast import memory_needs
from naslab.efficiency.prediction import StepTime, StepTimes
from naslab.efficiency.published_rates import published_rate
from naslab.efficiency.roofline import Roof
from naslab.efficiency.step_features import features
from naslab.efficiency.targets import steps_path


def large():
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(8192, 32768), nn.Linear(32768, 8192)), torch.empty(4096, 8192)


@pytest.fixture(scope="module")
def counted():
    model, inputs = large()
    return count_training_step(model, inputs), memory_needs(model, inputs)["training_step"]


def test_hours_are_steps_times_the_predicted_step(counted):
    step, _ = counted
    one = run_hours(step, 3600, "h100")
    assert one.hours == pytest.approx(run_hours(step, 7200, "h100").hours / 2)
    assert one.hours == pytest.approx(run_hours(step, 1800, "h100", passes=2).hours)
    assert one.low < one.hours < one.high
    assert one.high / one.hours == pytest.approx(published_rate(training=True).high)
    # No step is faster than its products at the data sheet's peak.
    assert one.low >= step.total / find_gpu("h100").peak_flops["bfloat16"]
    slow = run_hours(step, 3600, "h100", loader_seconds=1e3)
    assert slow.hours == slow.low == slow.high == 1e3


@pytest.mark.parametrize(("steps", "passes"), [(-1, 1), (10, 0), (10, -2)])
def test_runs_that_cannot_be_are_refused(counted, steps, passes):
    with pytest.raises(InputError, match="steps begin at 0 and passes at 1"):
        run_hours(counted[0], steps, "h100", passes=passes)


def test_no_steps_take_no_time(counted):
    found = run_hours(counted[0], 0, "h100")
    assert (found.low, found.hours, found.high) == (0, 0, 0)


def test_hours_of_this_processor_rest_on_its_measured_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path))
    step = count_training_step(nn.Linear(64, 64), torch.ones(32, 64))
    unknown = run_hours(step, 10, "cpu")
    assert unknown.hours is None
    assert "naslab devices calibrate" in unknown.refused
    roof = Roof("cpu: some", {"float32": 1e9}, 1e9, measured=True)
    taken = features(step, roof)
    steps = [StepTime(f"model {n}", True, taken, 0.5 * (1 + n / 100)) for n in range(40)]
    StepTimes(roof, tuple(steps)).save(steps_path(torch.device("cpu")))
    found = run_hours(step, 7200, "CPU", needs_bytes=1)
    assert found.device == "cpu"
    assert found.hours == pytest.approx(0.5 * 1.2 * 2, rel=0.2)
    assert found.low < found.hours < found.high
    assert "measured steps" in found.basis
    assert found.memory["fits"]
    assert Hours(**found.to_dict()) == found


def test_a_small_model_waits_for_its_host():
    step = count_training_step(nn.Linear(4, 4), torch.ones(1, 4))
    found = run_hours(step, 3600, "h100")
    assert found.hours >= len(step.operations) * 1e-6


def test_what_does_not_fit_is_said_with_the_smallest_number_that_would(counted):
    _, needs = counted
    card = find_gpu("t4").memory_bytes
    assert run_hours(None, 1, "t4", needs_bytes=needs).memory == {
        "needs_bytes": needs,
        "device_bytes": card,
        "fits": needs <= card,
        "devices": max(1, -(-needs // card)),
    }
    for times in (1, 2, 3):
        assert run_hours(None, 1, "t4", needs_bytes=times * card).memory["devices"] == times
        assert run_hours(None, 1, "t4", needs_bytes=times * card + 1).memory["devices"] == times + 1


def test_a_study_is_the_sum_and_refuses_with_its_runs(counted):
    step, _ = counted
    run, other = run_hours(step, 100, "a100"), run_hours(step, 300, "a100")
    whole = study_hours([(run, 3), (other, 1)])
    assert whole.hours == pytest.approx(6 * run.hours)
    assert (whole.low, whole.high) == pytest.approx((6 * run.low, 6 * run.high))
    unknown = run_hours(None, 100, "a100")
    assert (unknown.hours, unknown.refused) == (None, "the training step cannot be counted")
    assert study_hours([(run, 3), (unknown, 1)]).hours is None
    assert study_hours([]) is None
    with pytest.raises(InputError, match="not in the table"):
        run_hours(step, 1, "abacus")
