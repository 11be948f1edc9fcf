"""Retrieval with ties: what the scores claim to expect is averaged over every order of equal similarities."""

import itertools
import math

import pytest
import torch

from naslab.search_spaces.common.scores import chance_scores, retrieval_scores
from naslab.search_spaces.common.scores.retrieval import RECALLS, best_rank_scores


def orders(similarity):
    """All rankings, best first, that the similarities allow."""
    for order in itertools.permutations(range(len(similarity))):
        if all(similarity[a] >= similarity[b] for a, b in itertools.pairwise(order)):
            yield order


def by_enumeration(similarity, right):
    ranks = [min(order.index(r) for r in right) + 1 for order in orders(similarity)]
    recalls = {k: sum(rank <= k for rank in ranks) / len(ranks) for k in RECALLS}
    return recalls, sum(ranks) / len(ranks)


@pytest.mark.parametrize("seed", range(25))
def test_scores_are_their_mean_over_every_order_of_equal_similarities(seed):
    generator = torch.Generator().manual_seed(seed)
    number = 2 + seed % 6
    similarity = torch.randint(0, 3, (1, number), generator=generator).float()
    right = torch.rand(1, number, generator=generator) < 0.4
    right[0, seed % number] = True
    recalls, rank = by_enumeration(similarity[0].tolist(), right[0].nonzero().flatten().tolist())
    found = best_rank_scores(similarity, right)
    assert found["median_rank"] == pytest.approx(rank)
    for k in RECALLS:
        assert found[f"recall_at_{k}"] == pytest.approx(100 * recalls[k])


def test_ranks_of_queries_are_joined_by_mean_and_median():
    """Ranks 1, 3, 6 and 12 of a dozen candidates."""
    similarity = -torch.arange(12.0).expand(4, -1)
    right = torch.zeros(4, 12, dtype=torch.bool)
    right[range(4), [0, 2, 5, 11]] = True
    assert best_rank_scores(similarity, right) == {
        "recall_at_1": pytest.approx(25),
        "recall_at_5": pytest.approx(50),
        "recall_at_10": pytest.approx(75),
        "median_rank": pytest.approx(4.5),
    }


@pytest.mark.parametrize(("clips", "captions"), [(100, 20), (7, 3), (30, 1)])
def test_whoever_finds_everything_alike_scores_chance_both_ways(clips, captions):
    """The best of m right texts among m + w at random places is among the first K unless all of these are wrong."""
    owners = torch.arange(clips).repeat_interleave(captions)
    found, texts, wrong = chance_scores(owners, clips), clips * captions, (clips - 1) * captions
    for k in RECALLS:
        assert found[f"recall_at_{k}"] == pytest.approx(100 * min(k / clips, 1))
        back = 1 - math.comb(wrong, k) / math.comb(texts, k)
        assert found[f"video_to_text_recall_at_{k}"] == pytest.approx(100 * back)
    assert found["video_to_text_recall_at_1"] == pytest.approx(100 / clips)  # m / (m + w)
    assert found["median_rank"] == pytest.approx((clips + 1) / 2)
    assert found["video_to_text_median_rank"] == pytest.approx(1 + wrong / (captions + 1))


def test_both_ways_and_their_mean():
    """Text 2 takes its video for another; video 2 has no text, and is not asked for its own."""
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.0], [0.7, 0.6, 0.1]])
    found = retrieval_scores(similarity, torch.tensor([0, 0, 1]))
    assert found["recall_at_1"] == pytest.approx(200 / 3)
    assert found["median_rank"] == 1
    assert found["video_to_text_recall_at_1"] == pytest.approx(100)
    recalls = [found[f"{way}recall_at_{k}"] for way in ("", "video_to_text_") for k in RECALLS]
    assert found["mean_recall"] == pytest.approx(sum(recalls) / 6)
    assert set(found) == {
        *(f"{way}{name}" for way in ("", "video_to_text_") for name in ("recall_at_1", "recall_at_5", "recall_at_10")),
        "median_rank",
        "video_to_text_median_rank",
        "mean_recall",
    }


def test_what_is_not_a_number_is_no_match():
    owners = torch.arange(4)
    assert retrieval_scores(torch.full((4, 4), torch.nan), owners) == chance_scores(owners, 4)
    similarity = torch.eye(4)
    similarity[0, 0] = torch.nan
    assert retrieval_scores(similarity, owners)["recall_at_1"] == pytest.approx(75)


def test_infinite_similarities_rank_as_they_stand():
    owners = torch.arange(3)
    similarity = torch.zeros(3, 3).fill_diagonal_(torch.inf)
    similarity[2] = -torch.inf
    found = retrieval_scores(similarity, owners)
    assert found["recall_at_1"] == pytest.approx(100 * (2 + 1 / 3) / 3)
    similarity = torch.zeros(3, 3)
    similarity[0, 1] = -torch.inf
    assert retrieval_scores(similarity, owners)["recall_at_1"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 3) / 3)
