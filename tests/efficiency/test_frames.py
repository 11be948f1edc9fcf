"""Profiles as pandas frames: the rows add up to the profile, and each says where it was measured."""

import pytest
import torch
from torch import nn

from naslab.efficiency import InputError, frame, profile

QUICK = {"min_seconds": 0.01, "max_seconds": 0.02}


@pytest.fixture(scope="module")
def measured():
    network = nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.Linear(10, 4))
    return profile(network, torch.ones(5, 6), target="mlp", **QUICK)


@pytest.mark.parametrize("by", ["kind", "operation"])
def test_rows_add_up_to_the_profile(measured, by):
    table = measured.frame(by)
    assert table["flops"].sum() == measured.flops.forward
    assert table["pointwise"].sum() == measured.flops.forward_pointwise
    assert table["bytes"].sum() == measured.bytes_moved.forward
    assert table["flops"].sum() + table["backward"].sum() == measured.flops.training_step
    assert set(table["commit"]) == {measured.provenance.commit}
    assert set(table["target"]) == {"mlp"}


def test_modules_are_rows(measured):
    table = measured.frame("module").set_index("module")
    assert table.loc["0", "flops"] == 2 * 5 * 60
    assert table.loc["", "flops"] == measured.flops.forward
    assert table.loc["2", "backward"] == 2 * (2 * 5 * 40)


def test_profiles_are_rows_of_one_table(measured):
    other = profile(nn.Linear(6, 3).to("meta"), torch.ones(5, 6, device="meta"), target="linear")
    table = frame([measured, other], by="profile").set_index("target")
    assert table.loc["mlp", "latency_median_ms"] == measured.latency_ms.median
    assert table["latency_median_ms"].isna().tolist() == [False, True]
    assert table["forward_flops"].tolist() == [measured.flops.forward, 2 * 5 * 18]
    assert frame([measured, other])["kind"].tolist() == [*measured.by_kind, *other.by_kind]


def test_an_unknown_level_is_one_line(measured):
    with pytest.raises(InputError, match="'day' is unknown; use profile, kind, module, operation"):
        measured.frame("day")
