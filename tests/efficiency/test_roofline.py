"""The roofline and the predictions, on devices whose ceilings are chosen so that the answer is known."""

import json
import math

import pytest
import torch
from torch import nn

from naslab.efficiency import InputError, count_forward, profile
from naslab.efficiency.cross_check import against_formula, against_fvcore
from naslab.efficiency.gpus import find_gpu
from naslab.efficiency.prediction import (
    DISPATCH,
    FEATURES,
    StepTime,
    StepTimes,
    fit,
    leave_one_out,
)
from naslab.efficiency.published_rates import PUBLISHED, left_out_factors
from naslab.efficiency.roofline import Roof, place
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


def planted(noise=0.0):
    generator = torch.Generator().manual_seed(0)
    steps = []
    for i in range(40):
        drawn = torch.rand(len(FEATURES), generator=generator).tolist()
        values = dict(zip(FEATURES, drawn, strict=True)) | {DISPATCH: 100 * drawn[-1]}
        factors = dict.fromkeys(FEATURES, 1.5) | {DISPATCH: 0.01}
        error = 1 + noise * (1 if i % 2 else -1)
        steps.append(
            StepTime(f"m{i}", False, values, error * sum(factors[n] * values[n] for n in FEATURES), (1.0, 2.0))
        )
    return steps


def test_planted_factors_are_found_and_models_left_out_are_predicted():
    steps = planted()
    fitted = fit("toy", steps)
    assert fitted.factors[DISPATCH] == pytest.approx(0.01, rel=1e-6)
    assert all(fitted.factors[name] == pytest.approx(1.5, rel=1e-6) for name in FEATURES if name != DISPATCH)
    assert leave_one_out(steps) == pytest.approx([step.seconds for step in steps])
    assert fitted.predict(steps[0].features).seconds == pytest.approx(steps[0].seconds)


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
    assert step["ms"]["high"] / step["ms"]["median"] == pytest.approx(max(left_out_factors()))
    with pytest.raises(InputError, match="h1000"):
        profile(model, images, predict_for=["h1000"])


def test_published_runs_stay_below_their_devices_peak():
    assert all(0 < run.utilisation < 1 for run in PUBLISHED)
    assert max(left_out_factors()) > 2
    assert math.isfinite(find_gpu("h100").peak_flops["bfloat16"])


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
