"""The roofline and the predictions, on devices whose ceilings are chosen so that the answer is known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from naslab import efficiency
from naslab.efficiency import InputError, count_forward, profile
from naslab.efficiency.cross_check import against_formula, against_fvcore
from naslab.efficiency.gpus import find_gpu
from naslab.efficiency.prediction import COVERAGE, StepTime, StepTimes, fit, leave_one_out
from naslab.efficiency.published_rates import back_test, published_rate, published_runs
from naslab.efficiency.roofline import Roof, place
from naslab.efficiency.step_features import FEATURES, MODULE_CALLS, USUAL, features
from naslab.efficiency.targets import predict

SLOW_MEMORY = Roof("toy", {"float32": 1e12}, 1e3, measured=True)
SLOW_PRODUCTS = Roof("toy", {"float32": 1e3}, 1e12, measured=True)


def test_a_linear_layer_under_two_roofs():
    counted = count_forward(nn.Linear(7, 11), torch.randn(3, 7))
    flops, moved = 2 * 3 * 7 * 11, 4 * (3 * 7 + 7 * 11 + 11 + 3 * 11)
    slow = place(counted, SLOW_MEMORY, measured_seconds=2 * moved / 1e3)
    assert slow.bound_seconds == pytest.approx(moved / 1e3)
    assert (slow.explained, slow.compute_bound_share) == (pytest.approx(0.5), 0.0)
    assert (slow.intensity, slow.ridge) == (pytest.approx(flops / moved), 1e9)
    assert place(counted, SLOW_PRODUCTS).bound_seconds == pytest.approx(flops / 1e3)
    assert place(counted, SLOW_PRODUCTS).compute_bound_share == 1.0


def test_a_format_without_a_ceiling_is_named():
    counted = count_forward(nn.Linear(7, 11).double(), torch.randn(3, 7).double())
    with pytest.raises(InputError, match=r"no ceiling for float64.*known are float32"):
        place(counted, SLOW_MEMORY)


TRUE = {name: usual * (2.0 if i % 2 else 0.6) for i, (name, usual) in enumerate(USUAL.items())}
"""Factors of a planted device, each well away from what is usual, within a spread and a half of it."""


def planted(noise=0.0):
    """Steps of 40 models, in each of which one feature takes most of the time: two models or three for a feature."""
    generator = torch.Generator().manual_seed(0)
    steps = []
    for i in range(40):
        shares = 0.02 * torch.rand(len(FEATURES), generator=generator)
        shares[i % len(FEATURES)] = 1.0
        values = {name: share / TRUE[name] for name, share in zip(FEATURES, shares.tolist(), strict=True)}
        error = 1 + noise * (1 if i % 2 else -1)
        seconds = error * sum(TRUE[name] * value for name, value in values.items())
        steps.append(StepTime(f"m{i}", False, values, seconds, (1.0, 2.0)))
    return steps


def test_planted_factors_are_found_and_models_left_out_are_predicted():
    steps = planted()
    fitted = fit("toy", steps)
    assert set(fitted.factors) == set(FEATURES)
    # The prior weighs (0.1 / 0.5)^2 of one step, so two steps that a feature rules hold it to 2 % of its distance.
    assert all(fitted.factors[name] == pytest.approx(TRUE[name], rel=0.05) for name in FEATURES)
    assert leave_one_out(steps) == pytest.approx([step.seconds for step in steps], rel=0.05)
    assert fitted.predict(steps[0].features).seconds == pytest.approx(steps[0].seconds, rel=0.05)


def test_what_no_step_tells_stays_near_what_is_usual():
    steps = [replace(s, features={"convolution": s.seconds / 1.7, MODULE_CALLS: 1e-9}) for s in planted()]
    factors = fit("toy", steps).factors
    assert factors["convolution"] == pytest.approx(1.7, rel=0.01)
    assert factors[MODULE_CALLS] == pytest.approx(USUAL[MODULE_CALLS], rel=0.01)


def test_one_step_gone_wrong_weighs_no_more_than_its_two_fellows():
    steps = planted()
    wrong = [replace(steps[0], seconds=50 * steps[0].seconds), *steps[1:]]
    before, after = fit("toy", steps).factors, fit("toy", wrong).factors
    assert all(after[name] == pytest.approx(before[name], rel=0.1) for name in FEATURES)


def test_modules_are_entered_as_often_as_their_operations_show():
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.Sequential(block, nn.Linear(4, 4), nn.ReLU())
    counted = count_forward(model, torch.randn(2, 4))
    # The model, the block, its two layers, and the two layers that follow it.
    assert features(counted, SLOW_MEMORY)[MODULE_CALLS] == 6


@pytest.mark.parametrize(
    "path", sorted(Path(efficiency.__file__).parent.glob("step_times/*.json")), ids=lambda p: p.stem
)
def test_models_on_measured_processors_are_missed_by_less_than_15_percent_in_the_median(path):
    errors = StepTimes.read(path).errors()
    assert len(errors) >= 40
    assert errors[len(errors) // 2] < 0.15


def test_the_interval_grows_with_the_back_tests_errors():
    narrow, wide = fit("toy", planted(0.01)), fit("toy", planted(0.2))
    assert narrow.high - narrow.low < 0.1 < wide.high - wide.low


def test_steps_unlike_the_measured_ones_are_refused():
    fitted = fit("toy", planted())
    far = dict.fromkeys(FEATURES, 1000.0)
    with pytest.raises(InputError, match="outside the calibrated range"):
        fitted.predict(far)
    with pytest.raises(InputError, match="3 measured steps; at least 10"):
        fit("toy", planted()[:3])
    unseen = [StepTime(s.name, False, s.features | {"recurrent": 0.0}, s.seconds) for s in planted()]
    with pytest.raises(InputError, match="no measured step had any recurrent"):
        fit("toy", unseen).predict(planted()[0].features)


def test_work_without_a_formula_is_predicted_only_where_it_must_be_small():
    class Decomposes(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.size, self.layer = size, nn.Linear(256, 256)

        def forward(self, inputs):
            return self.layer(inputs), torch.linalg.svdvals(inputs[: self.size, : self.size])

    for size, refused in ((4, False), (256, True)):
        counted = count_forward(Decomposes(size), torch.ones(256, 256))
        found = predict("h100", "bfloat16", counted, None)["forward"]
        assert found["gap"]["names"] == ["_linalg_svd"]
        assert found["gap"]["most_share"] == counted.most_uncovered / (counted.total + counted.most_uncovered)
        assert (found["ms"] is None) == refused
        assert ("no formula for _linalg_svd" in found.get("refused", "")) == refused


def test_measured_steps_survive_a_file(tmp_path):
    steps = StepTimes(SLOW_MEMORY, tuple(planted()))
    (tmp_path / "a.json").write_text(json.dumps(steps.to_dict()))
    assert StepTimes.read(tmp_path / "a.json") == steps
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(InputError, match=r"b\.json: not a file of measured steps"):
        StepTimes.read(tmp_path / "b.json")


def test_a_device_never_measured_gets_a_bound_and_an_order_of_magnitude():
    with torch.device("meta"):
        model, images = (
            nn.Sequential(nn.Flatten(), nn.Linear(3072, 4096), nn.Linear(4096, 10)),
            torch.empty(64, 3, 32, 32),
        )
    entry = profile(model, images, dtype=torch.bfloat16, predict_for=["h100"]).predicted["h100-sxm"]
    step = entry["training_step"]
    for found in (step, entry["forward"]):
        assert found["bound_ms"] <= found["ms"]["low"] <= found["ms"]["median"] < found["ms"]["high"]
    assert entry["memory"]["training_step"]["fits"]
    for key, training in (("forward", False), ("training_step", True)):
        assert entry[key]["ms"]["high"] / entry[key]["ms"]["median"] == pytest.approx(published_rate(training).high)
    with pytest.raises(InputError, match="h1000"):
        profile(model, images, predict_for=["h1000"])


def test_published_runs_stay_below_their_devices_roof():
    runs = published_runs()
    assert all(0 < run.share < 1 for run in runs)
    for run in runs:
        assert run.bound_seconds >= run.flops / find_gpu(run.device).peak_flops[run.dtype]
    assert len({run.source for run in runs}) >= 15


@pytest.mark.parametrize("training", [True, False])
def test_the_interval_holds_the_runs_of_a_source_that_it_was_not_made_from(training):
    tested = back_test([run for run in published_runs() if run.training == training])
    assert tested["held"] >= COVERAGE
    assert tested["rate"]["low"] < 1 < tested["rate"]["high"]
    assert tested["left_out"] == training, "two sources of inferences are too few to leave one out"
    if training:
        assert tested["held"] < 1, "an interval that holds everything says nothing"


def test_an_interval_that_is_too_narrow_is_seen(monkeypatch):
    runs = [run for run in published_runs() if run.training]
    fast = [replace(run, source=f"{run.source}, doubled", seconds=run.seconds / 1e3) for run in runs[:5]]
    assert back_test([*runs, *fast])["held"] < back_test(runs)["held"]


def test_fvcore_agrees_on_products_and_its_blindness_is_named():
    pytest.importorskip("fvcore", reason="fvcore is not installed")
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    images = torch.randn(2, 3, 8, 8)
    check = against_fvcore(plain, images, count_forward(plain, images))
    assert (check.difference, check.cause) == (0.0, None)

    class Attention(nn.Module):
        def forward(self, q):
            return nn.functional.scaled_dot_product_attention(q, q, q)

    queries = torch.randn(1, 2, 9, 8)
    blind = against_fvcore(Attention(), queries, count_forward(Attention(), queries))
    assert blind.flops == 0
    assert "attention" in blind.cause


def test_a_formula_that_differs_is_reported_with_the_largest_kind():
    layer, inputs = nn.Linear(7, 11), torch.randn(3, 7)
    counted = count_forward(layer, inputs)
    assert against_formula(counted, counted.total, "formula").cause is None
    assert "matrix product" in against_formula(counted, counted.total // 2, "formula").cause
