import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from naslab.search_spaces.common.modules.top_k import PerturbedTopK
from naslab.search_spaces.common.objectives.contrastive import contrastive_loss, same_text
from naslab.search_spaces.common.objectives.masked_words import labelled_loss, mask_words
from naslab.search_spaces.common.objectives.matching import hard_negatives, matching_loss
from naslab.search_spaces.data.text import IGNORED, SpecialIds
from naslab.search_spaces.smaug.selector import FrameSelector


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_contrastive_loss_is_the_cross_entropy_both_ways():
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    truth = torch.arange(6)
    expected = (F.cross_entropy(similarity, truth) + F.cross_entropy(similarity.T, truth)) / 2
    assert torch.allclose(contrastive_loss(similarity, torch.eye(6, dtype=torch.bool)), expected)


def test_contrastive_loss_shares_the_target_among_equal_texts():
    ids = torch.tensor([[1, 5, 2], [1, 6, 2], [1, 5, 2]])
    same = same_text(ids)
    similarity = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    total = 0.0
    for matrix in (similarity, similarity.T):
        for i in range(3):
            partners = [j for j in range(3) if torch.equal(ids[i], ids[j])]
            row = matrix[i].exp() / matrix[i].exp().sum()
            total -= sum(math.log(row[j]) for j in partners) / len(partners)
    assert contrastive_loss(similarity, same).item() == pytest.approx(total / 6, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6), st.sampled_from([1.0, 1000.0]))
def test_hard_negatives_are_never_the_positive_nor_its_equal(batch, texts, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 5 + texts, (batch, 1), generator=generator)
    similarity = scale * torch.randn(batch, batch, generator=generator)
    noise = torch.rand(batch, 2, generator=generator)
    noise[0] = torch.tensor([0.0, 1 - 2**-24])
    found = hard_negatives(similarity, same_text(ids), noise)
    for i in range(batch):
        others = [j for j in range(batch) if ids[j] != ids[i]]
        assert bool(found.valid_B[i]) == bool(others)
        if others:
            assert int(found.video_B[i]) in others
            assert int(found.text_B[i]) in others


def test_hard_negatives_follow_the_softmax_of_the_similarity():
    batch, repeats = 4, 20_000
    similarity = torch.randn(batch, batch, generator=torch.Generator().manual_seed(2))
    same = torch.eye(batch, dtype=torch.bool)
    video, text = (torch.zeros(batch, batch) for _ in range(2))
    share = similarity.masked_fill(same, -torch.inf)
    noise = drawn(repeats, batch, 2)
    for row in noise[:2000]:
        found = hard_negatives(similarity, same, row)
        video[torch.arange(batch), found.video_B] += 1 / 2000
        text[torch.arange(batch), found.text_B] += 1 / 2000
    assert torch.allclose(video, share.softmax(1), atol=0.05)
    assert torch.allclose(text, share.T.softmax(1), atol=0.05)


def test_matching_loss_leaves_out_negatives_that_are_none():
    logits = torch.randn(9, 2, generator=torch.Generator().manual_seed(3))
    valid = torch.tensor([True, False, True])
    terms = []
    for i, (row, fits) in enumerate(zip(logits.tolist(), [1] * 3 + [0] * 6, strict=True)):
        if i < 3 or valid[i % 3]:
            terms.append(math.log(math.exp(row[0]) + math.exp(row[1])) - row[fits])
    assert matching_loss(logits, valid).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize("ratio", [0.15, 0.5, 0.9])
def test_words_are_masked_by_count_and_never_the_special_ones(ratio):
    special, vocabulary = SpecialIds(), 50
    lengths = [0, 1, 3, 8]
    ids = torch.zeros(4, 10, dtype=torch.long)
    for row, n in enumerate(lengths):
        ids[row, : n + 2] = torch.tensor([1, *range(10, 10 + n), 2])
    masked = mask_words(ids, drawn(4, 10, 3), ratio, special, vocabulary)
    hidden = masked.labels_BL != IGNORED
    assert hidden.sum(1).tolist() == [0, *(max(1, round(ratio * n)) for n in lengths[1:])]
    assert torch.equal(masked.labels_BL[hidden], ids[hidden])
    assert bool((ids[hidden] >= 10).all())
    assert torch.equal(masked.ids_BL[~hidden], ids[~hidden])


def test_hidden_words_become_masks_others_and_themselves_8_1_1():
    special = SpecialIds()
    ids = torch.full((2000, 12), 40)
    ids[:, 0], ids[:, -1] = 1, 2
    masked = mask_words(ids, drawn(2000, 12, 3), 0.5, special, 50)
    found = masked.ids_BL[masked.labels_BL != IGNORED]
    shares = [(found == special.mask).float().mean().item(), (found == 40).float().mean().item()]
    assert shares[0] == pytest.approx(0.8, abs=0.02)
    assert shares[1] == pytest.approx(0.1 + 0.1 / 45, abs=0.02)
    others = found[(found != special.mask) & (found != 40)]
    assert set(others.tolist()) == set(range(5, 50)) - {40}


def test_labelled_loss_is_the_mean_over_labels_and_0_without_any():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([[1, IGNORED, 6], [IGNORED, 2, IGNORED]])
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    assert torch.allclose(labelled_loss(logits, labels), expected)
    assert labelled_loss(logits, torch.full_like(labels, IGNORED)).item() == 0.0


def selector(estimator, keep=2, samples=200):
    torch.manual_seed(0)
    return FrameSelector(6, 8, keep, estimator, samples, 0.1)


@pytest.mark.parametrize("estimator", ["straight_through", "perturbed"])
def test_gradients_reach_the_scores_of_frames_and_text(estimator):
    chooser = selector(estimator).train()
    features, text = torch.randn(5, 4, 6, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    values = torch.randn(5, 4, 3, 2)
    chosen = chooser(features, text)
    taken = chosen.take(values)
    assert taken.shape == (5, 2, 3, 2)
    (taken * torch.randn(5, 2, 3, 2)).sum().backward()
    for gradient in (features.grad, text.grad, chooser.score.weight.grad, chooser.frame[1].weight.grad):
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("estimator", ["straight_through", "perturbed"])
def test_evaluation_takes_the_top_frames_in_order_of_time(estimator):
    chooser = selector(estimator).eval()
    features, text, values = torch.randn(5, 4, 6), torch.randn(5, 8), torch.randn(5, 4, 3)
    chosen, scores = chooser(features, text), chooser.scores(features, text)
    for b in range(5):
        best = sorted(sorted(range(4), key=lambda t: -scores[b, t].item())[:2])
        assert chosen.kept_BK[b].tolist() == best
        assert torch.equal(chosen.take(values)[b], values[b, best])
    shares = chooser.shares_of_all(features, text)
    for q, v in itertools.product(range(5), range(5)):
        alone = chooser(features[v : v + 1], text[q : q + 1]).kept_BK[0]
        assert torch.equal(shares[q, v], torch.zeros(4).index_fill(0, alone, 0.5))


@pytest.mark.parametrize("estimator", ["straight_through", "perturbed"])
def test_shares_are_those_of_the_mean_of_what_is_kept(estimator):
    chosen, values = selector(estimator).train()(torch.randn(5, 4, 6), torch.randn(5, 8)), torch.randn(5, 4, 3)
    mean = torch.einsum("bt,btd->bd", chosen.shares(4), values)
    assert torch.allclose(mean, chosen.take(values).mean(1), atol=1e-6)
    mean.square().sum().backward()


def test_straight_through_changes_no_value():
    chooser = selector("straight_through").train()
    values = torch.randn(5, 4, 3)
    chosen = chooser(torch.randn(5, 4, 6), torch.randn(5, 8))
    assert torch.equal(chosen.take(values), torch.stack([v[f] for v, f in zip(values, chosen.kept_BK, strict=True)]))


def test_perturbed_selection_has_the_gradient_of_its_mean():
    """The estimate by noise against finite differences of the exact mean for the best of two frames."""
    sigma, gap = 0.5, 0.3
    scores = torch.tensor([[gap, 0.0]], dtype=torch.float64, requires_grad=True)
    noise = torch.randn(1, 400_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = PerturbedTopK.apply(scores, noise, 1, sigma)
    assert torch.allclose(rows.sum(-1), torch.ones(1, 1, dtype=torch.float64))
    normal = torch.distributions.Normal(0.0, sigma * math.sqrt(2))
    assert rows[0, 0, 0].item() == pytest.approx(normal.cdf(torch.tensor(gap)).item(), abs=0.005)
    rows[0, 0, 0].backward()
    density = normal.log_prob(torch.tensor(gap)).exp().item()
    assert scores.grad[0].tolist() == pytest.approx([density, -density], abs=0.01)
