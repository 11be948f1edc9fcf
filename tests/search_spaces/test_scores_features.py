import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from naslab.search_spaces.common.scores import (
    effective_rank,
    encode,
    feature_std,
    knn_accuracy,
    labelled_few,
    linear_probe_accuracy,
    score_features,
)
from naslab.search_spaces.common.scores.probe import PROBE_L2, fit_probe
from naslab.search_spaces.data import Augmentation, AugmentationOptions, MemoryImages
from naslab.search_spaces.task import TrainingDiverged


def test_weighted_knn_is_the_papers_vote():
    torch.manual_seed(0)
    bank, queries = torch.randn(40, 5), torch.randn(23, 5)
    bank_y, y = torch.randint(0, 4, (40,)), torch.randint(0, 4, (23,))
    right = 0
    for query, truth in zip(queries, y, strict=True):
        similarity = [(F.cosine_similarity(query, b, dim=0).item(), int(c)) for b, c in zip(bank, bank_y, strict=True)]
        votes = [0.0] * 4
        for s, c in sorted(similarity, reverse=True)[:7]:
            votes[c] += math.exp(s / 0.1)
        right += int(np.argmax(votes)) == int(truth)
    assert knn_accuracy(bank, bank_y, queries, y, 4, k=7, temperature=0.1) == pytest.approx(right / 23)


def test_knn_cuts_k_to_the_bank_and_leaves_out_what_has_no_label():
    bank, bank_y = torch.eye(3), torch.tensor([0, 1, -1])
    assert knn_accuracy(bank, bank_y, torch.eye(3)[:2], torch.tensor([0, 1]), 2, k=200) == 1.0


def test_the_probe_reaches_the_optimum():
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))

    def loss(flat):
        parameters = torch.tensor(flat, dtype=torch.float64, requires_grad=True)
        weight, bias = parameters[:12].view(4, 3), parameters[12:]
        value = F.cross_entropy(x.double() @ weight + bias, y) + PROBE_L2 * weight.square().sum()
        return value.item(), torch.autograd.grad(value, parameters)[0].numpy()

    best = minimize(loss, np.zeros(15), jac=True, method="BFGS", options={"gtol": 1e-8})
    weight, bias = fit_probe(x, y, 3, 200)
    assert torch.allclose(weight.double(), torch.from_numpy(best.x[:12]).view(4, 3), atol=2e-2)
    assert loss(torch.cat([weight.flatten(), bias]).tolist())[0] == pytest.approx(best.fun, abs=1e-5)


def test_the_probe_separates_what_can_be_separated():
    x = torch.cat([torch.randn(50, 3) + 6 * torch.eye(3)[c] for c in range(3)])
    y = torch.arange(3).repeat_interleave(50)
    assert linear_probe_accuracy(x, y, x, y, 3) > 0.97
    assert linear_probe_accuracy(x, y, x, y, 3) == linear_probe_accuracy(x, y, x, y, 3)


def test_collapse_metrics_know_both_ends():
    torch.manual_seed(0)
    healthy, collapsed = torch.randn(4000, 32), torch.ones(400, 32) + 1e-4 * torch.randn(400, 32)
    assert feature_std(healthy) == pytest.approx(1.0, abs=0.02)
    assert feature_std(collapsed) < 0.01
    assert math.isnan(feature_std(healthy[:1])), "one row has no deviation"
    assert effective_rank(healthy) > 30
    assert effective_rank(collapsed) == pytest.approx(1.0, abs=0.05)
    low = torch.randn(400, 3) @ torch.randn(3, 32)
    assert effective_rank(low) < 3.01


@pytest.mark.parametrize("temperature", [0.001, 0.005, 0.07])
def test_at_any_temperature_the_votes_are_finite(temperature):
    """Two neighbours outvote one at a high temperature, the nearest alone decides at a low one; none overflows."""
    bank = F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.5], [1.0, 0.5]]), dim=1)
    bank_y, query = torch.tensor([1, 0, 0]), torch.tensor([[1.0, 0.0]])
    assert knn_accuracy(bank, bank_y, query, torch.tensor([1]), 2, k=3, temperature=temperature) == 1.0
    assert knn_accuracy(bank, bank_y, query, torch.tensor([0]), 2, k=3, temperature=10.0) == 1.0


def test_two_hundred_neighbours_vote_if_nothing_else_is_asked_for():
    """A hundred of class 0 are nearest, 101 of class 1 follow; at a high temperature votes weigh alike."""
    angle = torch.linspace(0.01, 0.3, 201)
    bank, bank_y = torch.stack([angle.cos(), angle.sin()], 1), (torch.arange(201) >= 100).long()
    query = torch.tensor([[1.0, 0.0]])
    for k, answer in (({}, 0), ({"k": 201}, 1)):
        assert knn_accuracy(bank, bank_y, query, torch.tensor([answer]), 2, temperature=100.0, **k) == 1.0


def test_neighbours_as_near_as_the_last_share_only_the_places_that_nearer_ones_leave():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    query = torch.tensor([[1.0, 0.0]])
    # k = 2 leaves one place for three: 1 + 1/3 votes of class 0 against 2/3 of class 1.
    for truth, right in ((0, 1.0), (1, 0.0)):
        assert knn_accuracy(bank, torch.tensor([0, 1, 1, 0]), query, torch.tensor([truth]), 2, 2, 1e6) == right


def test_knn_counts_every_query():
    """More queries than are looked at together, of which exactly one in five is labelled wrong."""
    bank, bank_y = torch.eye(3), torch.arange(3)
    y = torch.arange(1500) % 3
    queries, told = bank[y], torch.where(torch.arange(1500) % 5 == 0, (y + 1) % 3, y)
    assert knn_accuracy(bank, bank_y, queries, told, 3) == pytest.approx(0.8)


def test_knn_takes_no_more_neighbours_than_asked_for():
    """One near neighbour of class 0, three of class 1 a little further away: they outvote it from k = 3 on."""
    angle = torch.tensor([0.1, 0.2, 0.21, 0.22])
    bank, bank_y = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 1, 1, 1])
    query = torch.tensor([[1.0, 0.0]])
    found = [knn_accuracy(bank, bank_y, 3 * query, torch.tensor([1]), 2, k=k) for k in (1, 2, 3, 4)]
    assert found == [0.0, 0.0, 1.0, 1.0]


def test_knn_of_a_default_temperature_weighs_as_published():
    """At temperature .1 a neighbour at cosine 1 outweighs two at .9 (e > 2), but not three (e < 3)."""
    bank = torch.tensor([[1.0, 0.0], *[[0.9, 0.19**0.5]] * 3])
    query = torch.tensor([[1.0, 0.0]])
    for number, right in ((2, 1.0), (3, 0.0)):
        bank_y = torch.tensor([0, 1, 1, 1])[: 1 + number]
        assert knn_accuracy(bank[: 1 + number], bank_y, query, torch.tensor([0]), 2) == right


def test_the_probe_standardises_by_the_bank_and_leaves_out_what_has_no_label():
    """Shifted and scaled features give the same answers; a constant one does no harm; unlabelled ones do not count."""
    torch.manual_seed(0)
    x, y = torch.randn(80, 4), torch.randint(0, 3, (80,))
    x[:, 0] += y
    queries, truth = torch.randn(50, 4), torch.randint(0, 3, (50,))
    plain = linear_probe_accuracy(x, y, queries, truth, 3)
    scale, shift = torch.tensor([1e3, 1e-2, 5.0, 1.0]), torch.tensor([7.0, 0.0, -900.0, 3.0])
    assert linear_probe_accuracy(x * scale + shift, y, queries * scale + shift, truth, 3) == pytest.approx(plain)
    constant = torch.full((80, 1), 5.0)
    padded = linear_probe_accuracy(torch.cat([x, constant], 1), y, torch.cat([queries, constant[:50]], 1), truth, 3)
    assert padded == pytest.approx(plain)
    more = torch.cat([x, 1e6 * torch.randn(20, 4)])
    assert linear_probe_accuracy(more, torch.cat([y, -torch.ones(20, dtype=torch.long)]), queries, truth, 3) == plain


def test_collapse_metrics_have_their_closed_forms():
    """Two opposite rows have deviation sqrt(2) times their direction; d equal singular values have rank d."""
    rows = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    assert feature_std(rows) == pytest.approx((0.6 + 0.8) / 2 * 2**0.5 * 2**0.5)
    for number in (1, 3, 8):
        assert effective_rank(5 * torch.eye(8)[:number]) == pytest.approx(number, rel=1e-5)
    two = effective_rank(torch.diag(torch.tensor([3.0, 1.0])))
    assert two == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-5)
    assert effective_rank(torch.zeros(4, 4)) == pytest.approx(1.0, abs=1e-3)


class Counting(Augmentation):
    """Counts how many images come at once."""

    def __init__(self):
        super().__init__(AugmentationOptions(), (0.5,), (0.25,))
        self.sizes = []

    def normalise(self, images):
        self.sizes.append(len(images))
        return super().normalise(images)


def test_features_are_taken_in_batches_of_plain_images():
    images = torch.randint(0, 256, (2300, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    counting = Counting()
    data = MemoryImages(images, torch.zeros(2300, dtype=torch.long))
    features = encode(lambda x: x.flatten(1).double(), data, counting, torch.device("cpu"))
    assert features.dtype == torch.float32
    assert torch.allclose(features, (images.flatten(1).float() / 255 - 0.5) / 0.25)
    assert counting.sizes == [1000, 1000, 300]


@pytest.mark.parametrize(("frames", "sizes"), [(400, [2, 2, 1]), (4000, [1] * 5)])
def test_a_batch_of_clips_has_as_many_frames_as_one_of_images(frames, sizes):
    clips = MemoryImages(torch.zeros(5, frames, 1, 2, 2, dtype=torch.uint8), torch.zeros(5, dtype=torch.long))
    counting = Counting()
    assert encode(lambda x: x.flatten(1), clips, counting, torch.device("cpu")).shape == (5, frames * 4)
    assert counting.sizes == sizes


def test_scores_are_those_asked_for_in_percent():
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    queries, truth = torch.randn(30, 4), torch.arange(30) % 3
    few = torch.tensor([0, 1, 2, 3, 4, 5])

    def scores(*arguments, **more):
        return score_features((x, y), (queries, truth), 3, *arguments, knn_k=5, knn_temperature=0.07, **more)

    knn = 100 * knn_accuracy(x, y, queries, truth, 3, 5, 0.07)
    linear = 100 * linear_probe_accuracy(x, y, queries, truth, 3)
    assert scores() == {"knn_top1": knn, "linear_top1": linear}
    assert scores(("knn_top1",)) == {"knn_top1": knn}
    assert scores(("linear_top1",)) == {"linear_top1": linear}
    assert scores((), few=few) == {
        "few_knn_top1": 100 * knn_accuracy(x[few], y[few], queries, truth, 3, 5, 0.07),
        "few_linear_top1": 100 * linear_probe_accuracy(x[few], y[few], queries, truth, 3),
    }


def test_a_few_labels_are_as_many_of_each_class():
    labels = torch.tensor([0, 1, 2, -1] * 10)
    chosen = labelled_few(labels, 4, seed=1)
    assert sorted(labels[chosen].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(chosen, labelled_few(labels, 4, seed=1))
    assert not torch.equal(chosen, labelled_few(labels, 4, seed=2))
    assert labelled_few(labels, None, seed=1) is None


@pytest.mark.parametrize("k", [1, 3, 7, 10])
def test_a_knn_that_finds_everything_alike_scores_chance(k):
    bank_y, alike = torch.arange(10) % 5, torch.ones(10, 4)
    for truth in range(5):
        score = knn_accuracy(alike, bank_y, alike, torch.full((10,), truth), 5, k=k)
        assert score == pytest.approx(0.2)


def test_neighbours_as_near_as_the_last_share_its_place():
    """Of k = 2, one is nearest (class 0), and two of class 1 and one of class 2 are level for the other place."""
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    y = torch.tensor([0, 1, 1, 2])
    query = torch.tensor([[1.0, 1.0]])
    scores = [knn_accuracy(bank[1:], y[1:], query, torch.tensor([c]), 3, k=1) for c in range(3)]
    assert scores == [0.0, 1.0, 0.0]  # two thirds of a vote against one third
    assert knn_accuracy(bank, y, torch.tensor([[1.0, 0.1]]), torch.tensor([0]), 3, k=2) == 1.0


@pytest.mark.parametrize("temperature", [1e-3, 1e-12, 1e-40, 1e-300])
def test_at_any_low_temperature_the_nearest_decides(temperature):
    x, y = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 5
    assert knn_accuracy(x, y, x, y, 5, k=10, temperature=temperature) == 1.0


def test_features_that_are_not_finite_are_a_diverged_training():
    x, y = torch.randn(6, 4), torch.arange(6) % 2
    for wrong in (math.nan, math.inf):
        broken = x.clone()
        broken[2, 1] = wrong
        with pytest.raises(TrainingDiverged, match="features"):
            score_features((broken, y), (x, y), 2, knn_k=3, knn_temperature=0.1)


def test_a_probe_on_a_single_row_is_of_its_class():
    assert (
        linear_probe_accuracy(torch.randn(1, 4), torch.zeros(1).long(), torch.randn(3, 4), torch.zeros(3).long(), 2)
        == 1
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_probe_says_that_a_model_went_astray(value):
    x, y = torch.randn(20, 3), torch.arange(20) % 2
    x[3, 1], x[4, 1] = value, -value
    with pytest.raises(TrainingDiverged, match="not finite"):
        linear_probe_accuracy(x, y, x, y, 2)
