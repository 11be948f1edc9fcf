"""Counts of tokens are the published ones; a share is stood for by the roundest of its count."""

import math

import pytest

from naslab.search_spaces.common.counts import kept_tokens, roundest, visible_tokens


def stands_for(length, share):
    visible = visible_tokens(length, share)
    return roundest(share, lambda ratio: visible_tokens(length, ratio), 1 - visible / length, 1 / length)


@pytest.mark.parametrize(("length", "ratio", "visible"), [(196, 0.75, 49), (256, 0.75, 64), (1568, 0.9, 156)])
def test_visible_counts_of_the_papers(length, ratio, visible):
    assert visible_tokens(length, ratio) == visible


def test_visible_counts_in_floating_point_are_those_of_published_code():
    """1 - .9 is a little below .1, so 9 of 100 tokens stay: as in MAE's code and transformers'."""
    assert visible_tokens(100, 0.9) == int(100 * (1 - 0.9)) == 9


@pytest.mark.parametrize(("length", "rate", "kept"), [(196, 0.7, 138), (138, 0.7, 97), (100, 0.55, 56), (10, 1.0, 10)])
def test_kept_counts_are_evits(length, rate, kept):
    assert kept_tokens(length, rate) == kept == math.ceil(rate * length)


@pytest.mark.parametrize("length", [7, 16, 49, 100, 196, 1568])
def test_shares_of_one_count_become_one_and_keep_it(length):
    """Over a fine grid: the same count if and only if the same share, which is of that count."""
    found: dict[int, set[float]] = {}
    for share in (place / 9973 for place in range(1000, 9474)):
        chosen = stands_for(length, share)
        assert visible_tokens(length, chosen) == visible_tokens(length, share)
        found.setdefault(visible_tokens(length, share), set()).add(chosen)
    assert all(len(chosen) == 1 for chosen in found.values())


@pytest.mark.parametrize("length", [16, 49, 64, 144, 196, 256, 1568])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_quarters_stand_for_themselves(length, ratio):
    assert stands_for(length, ratio) == ratio


@pytest.mark.parametrize(("share", "found"), [(0.74, 0.75), (0.755, 0.75), (0.76, 0.77), (0.3, 0.3), (0.301, 0.3)])
def test_of_49_tokens(share, found):
    assert stands_for(49, share) == found
