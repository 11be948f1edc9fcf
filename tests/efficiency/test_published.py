"""The counter against printed tables of published systems, on meta tensors."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import published


@pytest.fixture(scope="module")
def found():
    return published.counted()


def test_mae_costs_and_ratios(found):
    by_hand = {"L, [M]": 67.01, "L, 8": 20.76, "L, 1": 16.14, "H, [M]": 174.55, "H, 8": 48.56, "H, 1": 42.43}
    assert found["mae_gmac"] == pytest.approx(by_hand, rel=0.01)
    counted = found["mae_gmac"]
    ratios = [counted[f"{size}, [M]"] / counted[f"{size}, {blocks}"] for size in "LH" for blocks in (8, 1)]
    assert ratios == pytest.approx([3.23, 4.15, 3.59, 4.11], rel=0.01)


def test_one_constant_predicts_maes_six_wall_clock_times(found):
    for printed, predicted in found["mae_hours"].values():
        assert predicted == pytest.approx(printed, rel=0.10)
    for printed, predicted in found["mae_hours_left_out"].values():
        assert predicted == pytest.approx(printed, rel=0.15)


def test_video_mae(found):
    for printed, counted in found["mae_st_gmac"].values():
        assert counted == pytest.approx(printed, rel=0.01)
    dense, sparse = (counted for _, counted in found["mae_st_gmac"].values())
    assert dense / sparse == pytest.approx(7.7, rel=0.01)


def test_token_reduction(found):
    for printed, counted in found["evit_gmac"].values():
        assert counted == pytest.approx(printed, rel=0.0175)  # 1.5 %, and the rounding of a printed decimal
    for printed, counted in found["tome_ratio"].values():
        assert counted == pytest.approx(printed, rel=0.02)
    for printed, counted in found["dynamic_vit_gmac"].values():
        assert counted == pytest.approx(printed, rel=0.03)
