"""Class scores, selection and merging against naive twins written from the papers, token by token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from naslab.efficiency import count
from naslab.kernels import bipartite_match, class_scores, merge_tokens, select_tokens, unmerge_tokens
from naslab.kernels._dispatch import switched

ways = pytest.mark.parametrize("way", ["fused", "reference"])


def naive_selection(tokens, scores, keep, fuse):
    """One sample after the other, one token after the other."""
    samples, prefix = [], tokens.shape[1] - scores.shape[1]
    for x, s in zip(tokens, scores, strict=True):
        order = sorted(range(len(s)), key=lambda n: (-s[n].item(), n))
        rows = [*x[:prefix], *(x[prefix + n] for n in order[:keep])]
        if fuse:
            rows.append(sum((s[n] * x[prefix + n] for n in order[keep:]), torch.zeros_like(x[0])))
        samples.append(torch.stack(rows))
    return torch.stack(samples)


def naive_merge(x, size, metric, r, class_token=False, distill_token=False):
    """ToMe for one sample: the merged tokens and their sizes, in its order."""
    first, second = list(range(0, len(x), 2)), list(range(1, len(x), 2))
    proposals = []
    for i in first:
        if class_token and i == 0:
            continue
        candidates = [j for j in second if not (distill_token and j == 1)]
        if not candidates:
            proposals.append((-float("inf"), i, None))
            continue
        cosine = [float(metric[i] @ metric[j] / (metric[i].norm() * metric[j].norm())) for j in candidates]
        best = max(range(len(candidates)), key=lambda n: (cosine[n], -n))
        proposals.append((cosine[best], i, candidates[best]))
    proposals.sort(key=lambda edge: -edge[0])
    groups = {j: [j] for j in second}
    for _, i, j in proposals[:r]:
        groups[j].append(i)
    left = [i for _, i, _ in proposals[r:]]
    if class_token:
        left = [0, *sorted(left)]
    order = [[i] for i in left] + [groups[j] for j in second]
    if distill_token:
        order = [order[0], groups[1], *order[1 : len(left)], *order[len(left) + 1 :]]
    sizes = torch.stack([sum(size[n] for n in group) for group in order])
    return torch.stack([sum(size[n] * x[n] for n in group) for group in order]) / sizes[:, None], sizes


@ways
def test_class_scores_are_the_first_row_of_the_attention(way):
    q, k = torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
    attention = (q @ k.mT * 8**-0.5).softmax(-1)
    with switched(way):
        scores = class_scores(q[:, :, 0], k, 8**-0.5)
    torch.testing.assert_close(scores, attention.mean(1)[:, 0, 1:])


def test_large_logits_do_not_overflow():
    q, k = torch.full((1, 1, 4), 100.0), torch.randn(1, 1, 5, 4)
    with switched("fused"):
        scores = class_scores(q, k, 1.0, skip=0)
    torch.testing.assert_close(scores, (100 * k.sum(-1)).softmax(-1)[:, 0], atol=1e-4, rtol=1e-4)


def test_scores_of_half_precision_are_float32():
    q, k = torch.randn(1, 2, 4).bfloat16(), torch.randn(1, 2, 5, 4).bfloat16()
    assert class_scores(q, k, 1.0).dtype == torch.float32


@ways
@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 3), scored=st.integers(1, 30), prefix=st.integers(0, 3), share=st.floats(0, 1),
    fuse=st.booleans(), levels=st.integers(1, 40),
)  # fmt: skip
def test_selection_is_its_naive_twin(way, batch, scored, prefix, share, fuse, levels):
    torch.manual_seed(scored)
    tokens = torch.randn(batch, prefix + scored, 6, requires_grad=True)
    scores = (torch.randint(levels, (batch, scored)) / levels).requires_grad_()  # with ties
    keep = max(round(share * scored), not (prefix or fuse))
    with switched(way):
        selected = select_tokens(tokens, scores, keep, fuse).tokens
    expected = naive_selection(tokens, scores, keep, fuse)
    torch.testing.assert_close(selected, expected)
    direction = torch.randn_like(expected)
    actual = torch.autograd.grad(selected, (tokens, scores), direction, materialize_grads=True)
    wanted = torch.autograd.grad(expected, (tokens, scores), direction, materialize_grads=True)
    torch.testing.assert_close(actual, wanted)


@ways
def test_kept_indices_are_topk(way):
    scores = torch.rand(3, 40)
    with switched(way):
        kept = select_tokens(torch.randn(3, 41, 4), scores, 13).kept_BK
    assert torch.equal(kept, scores.topk(13).indices)


def test_scores_that_are_not_numbers_rank_last():
    scores = torch.tensor([[0.1, float("nan"), 0.3, float("-inf"), float("inf")]])
    assert select_tokens(torch.randn(1, 5, 2), scores, 3).kept_BK.tolist() == [[4, 2, 0]]


@ways
@settings(deadline=None, max_examples=40)
@given(tokens=st.integers(2, 40), r=st.integers(0, 20), protected=st.sampled_from([0, 1, 2]))
def test_merging_is_its_naive_twin(way, tokens, r, protected):
    torch.manual_seed(tokens)
    r = min(r, (tokens - protected) // 2)
    x, metric = torch.randn(2, tokens, 5, dtype=torch.float64), torch.randn(2, tokens, 7, dtype=torch.float64)
    sizes = torch.randint(1, 6, (2, tokens)).double()
    with switched(way):
        merged, merged_sizes = merge_tokens(x, sizes, bipartite_match(metric, r, protected))
    for n in range(2):
        expected, expected_sizes = naive_merge(x[n], sizes[n], metric[n], r, protected > 0, protected > 1)
        torch.testing.assert_close(merged[n], expected)
        torch.testing.assert_close(merged_sizes[n], expected_sizes)


@ways
def test_four_registers_stay_in_front(way):
    x = torch.randn(2, 19, 8)
    with switched(way):
        merged, sizes = merge_tokens(x, torch.ones(2, 19), bipartite_match(x, 7, protected=5))
    assert torch.equal(merged[:, :5], x[:, :5])
    assert sizes[:, :5].eq(1).all()
    assert merged.shape == (2, 12, 8)


@ways
def test_unmerging_gives_each_token_its_row_and_undoes_a_merge_of_equals(way):
    x = torch.randn(2, 8, 5).repeat_interleave(2, 1)[:, :15]  # token 2n + 1 equals token 2n
    with switched(way):
        matching = bipartite_match(x, 7, protected=0)
        merged, sizes = merge_tokens(x, torch.ones(2, 15), matching)
        torch.testing.assert_close(unmerge_tokens(merged, matching), x)
    assert sizes.tolist() == [[1.0] + [2.0] * 7] * 2


@ways
def test_the_weighted_sum_of_all_tokens_is_kept(way):
    x, sizes = torch.randn(3, 50, 4), torch.randint(1, 9, (3, 50)).float()
    with switched(way):
        merged, merged_sizes = merge_tokens(x, sizes, bipartite_match(x, 20, 1))
    torch.testing.assert_close((merged * merged_sizes[..., None]).sum(1), (x * sizes[..., None]).sum(1))


def test_a_metric_of_zeros_or_not_numbers_merges_without_harm():
    for metric in (torch.zeros(1, 9, 4), torch.full((1, 9, 4), float("nan"))):
        matching = bipartite_match(metric, 4)
        rows = torch.cat([matching.kept_BK, matching.sources_BR], 1).sort(1).values
        assert rows.tolist() == [list(range(9))]
        assert matching.kept_BK[0, 0] == 0


def test_the_profiler_sees_them():
    def step():
        keys = torch.randn(2, 3, 9, 4, requires_grad=True)
        tokens = torch.randn(2, 9, 12, requires_grad=True)
        scores = class_scores(torch.randn(2, 3, 4, requires_grad=True), keys, 0.5)
        rows = select_tokens(tokens, scores, 4).tokens
        matching = bipartite_match(rows, 2)
        merged, _ = merge_tokens(rows, torch.ones(2, 6), matching)
        unmerge_tokens(merged, matching).sum().backward()

    with switched("fused"):
        counted = count(step)
    assert counted.coverage == 1, counted.uncovered
    assert counted.by_operation["naslab::class_scores"].contraction == 2 * 2 * 3 * 9 * 4
    assert counted.by_operation["naslab::class_scores_backward"].contraction == 4 * 2 * 3 * 9 * 4
    assert counted.by_operation["naslab::token_select"].pointwise == 2 * 2 * 4 * 12
    assert counted.by_operation["naslab::token_match"].contraction == 2 * 2 * 3 * 3 * 12
    assert counted.by_operation["naslab::token_merge"].pointwise == 2 * 2 * 2 * 12


def test_wrong_arguments_are_named():
    q, k, x = torch.rand(2, 3, 4), torch.rand(2, 3, 5, 4), torch.rand(2, 6, 4)
    with pytest.raises(ValueError, match="query_BHD"):
        class_scores(q[:1], k, 1.0)
    with pytest.raises(ValueError, match="keys_BHND"):
        class_scores(q, k[0], 1.0)
    with pytest.raises(ValueError, match="skip: 6"):
        class_scores(q, k, 1.0, skip=6)
    with pytest.raises(ValueError, match="tokens_BND"):
        select_tokens(x[0], torch.rand(2, 5), 2)
    with pytest.raises(ValueError, match="scores_BM"):
        select_tokens(x, torch.rand(2, 7), 2)
    with pytest.raises(ValueError, match="keep: 6"):
        select_tokens(x, torch.rand(2, 5), 6)
    with pytest.raises(ValueError, match="metric_BND"):
        bipartite_match(x[0], 1)
    with pytest.raises(ValueError, match="r: 3 is not 0 to 2"):
        bipartite_match(x, 3)
    with pytest.raises(ValueError, match="protected: 7"):
        bipartite_match(x, 0, 7)
    matching = bipartite_match(x, 2)
    with pytest.raises(ValueError, match="tokens_BND"):
        merge_tokens(x[:, 1:], torch.ones(2, 6), matching)
    with pytest.raises(ValueError, match="sizes_BN"):
        merge_tokens(x, torch.ones(2, 5), matching)
    with pytest.raises(ValueError, match="merged_BKD"):
        unmerge_tokens(x, matching)
