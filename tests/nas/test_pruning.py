import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naslab.nas.arms import Sampled
from naslab.nas.pruning import hyperband_bracket, is_behind


def arm(pruner, **options):
    return Sampled(engine="optuna", name="arm", sampler="random", trials=40, pruner=pruner, **options)


def behind(pruner, own, peers, bracket=0, **options):
    return is_behind(arm(pruner, **options), own, peers, min([*own, *(e for peer in peers for e in peer)]), bracket)


SCORES = st.integers(0, 30).map(float)
LADDER = [{1: float(score), 2: float(score), 3: float(score)} for score in range(10, 90, 10)]


@given(st.lists(SCORES, max_size=30), SCORES, st.integers(2, 4))
@settings(deadline=None)
def test_halving_goes_on_within_the_best_share_of_all_that_came_this_far(peers, own, reduction):
    number = len(peers) + 1
    goes_on = number < reduction or sum(score > own for score in peers) < number // reduction
    assert behind("asha", {1: own}, [{1: score} for score in peers], reduction=reduction) is not goes_on


@given(st.lists(SCORES, min_size=3, max_size=30), SCORES, st.floats(1, 99).map(lambda p: round(p, 1)))
@settings(deadline=None)
def test_the_percentile_is_that_of_the_peers_at_the_same_epoch(peers, own, keep):
    expected = own < np.percentile(peers, 100 - keep)
    curves = [{1: 0.0, 2: score} for score in peers]
    if abs(own - np.percentile(peers, 100 - keep)) > 1e-6:
        assert behind("percentile", {2: own}, curves, keep=keep) is bool(expected)


def test_the_best_so_far_counts_and_too_few_peers_prune_nothing():
    peers = [{1: 50.0, 2: 70.0}, {1: 55.0, 2: 72.0}, {1: 60.0, 2: 75.0}, {1: 52.0, 2: 71.0}]
    assert behind("median", {1: 40.0}, peers)
    assert not behind("median", {1: 58.0}, peers)
    assert not behind("median", {1: 73.0, 2: 40.0}, peers)
    assert not behind("median", {1: 40.0}, peers[:2])
    assert behind("median", {1: 40.0}, peers[:2], startup=2)
    assert not behind("none", {1: 0.0}, peers)


def test_between_rungs_nothing_is_halved():
    assert behind("asha", {1: 5.0}, LADDER)
    assert not behind("asha", {1: 55.0, 2: 55.0, 3: 5.0}, LADDER), "epoch 3 is none of its rungs"
    assert not behind("asha", {1: 5.0}, LADDER, first_rung=2)
    assert behind("asha", {1: 5.0, 2: 5.0}, LADDER, first_rung=2)
    assert not behind("asha", {1: 5.0, 2: 5.0}, LADDER, reduction=3)
    assert behind("asha", {1: 5.0, 2: 5.0, 3: 5.0}, LADDER, reduction=3)


def test_a_rung_between_two_reports_is_judged_at_the_later():
    peers = [{5: 9.0, 10: 9.0}] * 4
    assert behind("asha", {5: 1.0}, peers, first_rung=4)
    assert behind("asha", {5: 9.5, 10: 1.0}, peers, first_rung=4), "rung 8 lies between 5 and 10"
    assert not behind("asha", {5: 9.5, 10: 9.5, 15: 1.0}, [{**peer, 15: 9.0} for peer in peers], first_rung=4)


def test_patience_spares_what_still_improves():
    rising, stale = {1: 1.0, 2: 2.0}, {1: 2.0, 2: 1.0}
    assert behind("asha", rising, LADDER)
    assert not behind("asha", rising, LADDER, patience=1)
    assert behind("asha", stale, LADDER, patience=1)
    assert not behind("asha", stale, LADDER, patience=2)
    peaked = {1: 1.0, 2: 3.0, 3: 0.0}
    assert behind("asha", peaked, LADDER, reduction=3)
    assert not behind("asha", peaked, LADDER, reduction=3, patience=2), "the best is among the last two"


def test_hyperband_takes_its_brackets_in_turn_and_each_halves_later():
    brackets = [hyperband_bracket(i, 8) for i in range(22)]
    assert brackets == [0] * 8 + [1] * 6 + [2] * 4 + [3] * 4, "n of Hyperband for eta 2 and 8 epochs"
    assert [hyperband_bracket(i, 8) for i in range(22, 44)] == brackets
    assert {hyperband_bracket(i, 1) for i in range(9)} == {0}
    assert [hyperband_bracket(i, 9, 3) for i in range(17)] == [0] * 9 + [1] * 5 + [2] * 3
    peers = [dict.fromkeys((1, 2, 3, 4), float(score)) for score in range(10, 90, 10)]
    for bracket, epochs in ((0, (1,)), (1, (1, 2)), (2, (1, 2, 3, 4))):
        assert behind("hyperband", dict.fromkeys(epochs, 5.0), peers, bracket)
        assert not behind("hyperband", dict.fromkeys(epochs, 5.0), peers, bracket + 1)


@pytest.mark.parametrize("options", [{"reduction": 3}, {"keep": 10}, {"startup": 2}, {"patience": 1}])
def test_options_belong_to_their_pruner(options):
    with pytest.raises(ValueError, match="applies only with pruner"):
        arm("none", **options)
