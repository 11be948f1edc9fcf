"""Predicted hours of runs and of whole studies: arithmetic, what does not fit, and refusals that are passed on."""

import pytest
import torch
from torch import nn

from naslab.efficiency import InputError, count_training_step, find_gpu, run_hours, study_hours
from naslab.efficiency.memory_forecast import memory_needs
from naslab.efficiency.published_rates import left_out_factors


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
    assert one.high / one.hours == pytest.approx(max(left_out_factors()))
    # No step is faster than its products at the data sheet's peak.
    assert one.low >= step.total / find_gpu("h100").peak_flops["bfloat16"]
    slow = run_hours(step, 3600, "h100", loader_seconds=1e3)
    assert slow.hours == slow.low == slow.high == 1e3


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
