"""Average precision against the values that published code gives, and with ties against every order."""

import itertools

import pytest
import torch

from naslab.search_spaces.common.scores import Relevance, ranking_scores
from naslab.search_spaces.common.scores.precision import Ranking


def ranking(ranks, number=40, junk=()):
    """The ranking in which the right images have the given ranks, from 0."""
    return Ranking.of(-torch.arange(float(number)), ranks, junk)


@pytest.mark.parametrize(
    ("ranks", "junk", "expected"),
    [
        ([0, 2, 5], (), 0.677778),
        ([0], (), 1.0),
        ([1], (), 0.25),
        ([4], (), 0.1),
        ([9], (), 0.05),
        ([0, 9], (), 0.577778),
        ([0, 2, 6, 10, 20], (1, 8, 9, 30), 0.634164),
    ],
)
def test_average_precision_is_that_of_the_published_evaluation(ranks, junk, expected):
    """Values of the revisited Oxford and Paris evaluation and of DELF's, which agree."""
    assert ranking(ranks, junk=junk).average_precision == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("k", "expected"), [(1, 1.0), (5, 0.4), (10, 0.5)])
def test_precision_counts_up_to_the_last_right_image(k, expected):
    assert ranking([0, 2, 5]).precision_at(k) == pytest.approx(expected)


def test_three_queries_as_published():
    """Rankings, right images and junk of DELF's test; the third query has no right image."""
    orders = torch.tensor([[4, 2, 0, 1, 3], [0, 2, 4, 1, 3], [0, 1, 2, 3, 4]])
    similarity = torch.empty(3, 5).scatter_(1, orders, -torch.arange(5.0).expand(3, -1))
    labels = [Relevance([0, 1], [], [2]), Relevance([0, 4], []), Relevance([], [])]
    found = ranking_scores(similarity, labels)
    assert found["map_easy"] == pytest.approx(60.4167, abs=1e-4)
    assert found["precision_at_1_easy"] == pytest.approx(50)
    assert found["precision_at_5_easy"] == pytest.approx(66.6667, abs=1e-4)
    names = ("map", "precision_at_1", "precision_at_5", "precision_at_10")
    assert set(found) == {f"{name}_{difficulty}" for name in names for difficulty in ("easy", "medium")}
    assert found["map_medium"] == found["map_easy"]


def test_each_difficulty_has_its_right_images_and_its_junk():
    """Ranks: easy 1, hard 0, junk 2, hard 3."""
    labels = Relevance(easy=[1], hard=[0, 3], junk=[2])
    assert labels.under("easy") == ([1], (2, 0, 3))
    assert labels.under("medium") == ((1, 0, 3), [2])
    assert labels.under("hard") == ([0, 3], (2, 1))
    found = ranking_scores(-torch.arange(5.0)[None], [labels])
    assert [found[f"map_{difficulty}"] for difficulty in ("easy", "medium", "hard")] == pytest.approx([100, 100, 100])
    lower = ranking_scores(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), [labels])
    assert lower["map_hard"] == pytest.approx(100 * Ranking(((1, 0), (1, 1), (1, 1)), 2).average_precision)


def test_what_is_not_returned_costs_recall():
    similarity = torch.tensor([3.0, 2.0, -torch.inf, torch.nan])
    found = Ranking.of(similarity, [0, 3])
    assert (found.groups, found.num_right, found.returned) == (((1, 1), (1, 0)), 2, 1)
    assert found.average_precision == pytest.approx(0.5)
    assert found.precision_at(5) == pytest.approx(1.0)
    nothing = Ranking.of(similarity, [2])
    assert (nothing.average_precision, nothing.precision_at(5)) == (0.0, 0.0)


def naive(order, right, k):
    """The published evaluation of one definite ranking."""
    ranks = sorted(order.index(r) for r in right)
    area = sum(((j / r if r else 1.0) + (j + 1) / (r + 1)) / 2 for j, r in enumerate(ranks)) / len(right)
    depth = min(k, ranks[-1] + 1)
    return area, sum(r < depth for r in ranks) / depth


@pytest.mark.parametrize("seed", range(30))
def test_ties_give_the_mean_over_every_order(seed):
    generator = torch.Generator().manual_seed(seed)
    number = 2 + seed % 5
    similarity = torch.randint(0, 2 + seed % 2, (number,), generator=generator).float()
    right = [i for i in range(number) if torch.rand(1, generator=generator) < 0.5] or [0]
    orders = [
        order
        for order in itertools.permutations(range(number))
        if all(similarity[a] >= similarity[b] for a, b in itertools.pairwise(order))
    ]
    found = Ranking.of(similarity, right)
    for k in (1, 2, 3, 5):
        each = [naive(order, right, k) for order in orders]
        assert found.average_precision == pytest.approx(sum(area for area, _ in each) / len(each))
        assert found.precision_at(k) == pytest.approx(sum(precision for _, precision in each) / len(each))
