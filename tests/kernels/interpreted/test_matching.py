"""The matching has no gradients, so it is no case of the shared tests: its kernel against its reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from naslab.kernels import bipartite_match
from naslab.kernels._dispatch import switched


def both(metric, r, protected):
    with switched("fused"):
        actual = bipartite_match(metric, r, protected)
    with switched("reference"):
        return actual, bipartite_match(metric, r, protected)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(0, 90), st.integers(1, 70), st.integers(0, 4), st.integers(0, 45))
def test_it_is_its_reference_at_any_size(batch, tokens, width, protected, r):
    protected = min(protected, tokens)
    torch.manual_seed(tokens)
    metric = torch.randn(batch, tokens, width)
    actual, expected = both(metric, min(r, (tokens - protected) // 2), protected)
    if width > 1:  # on one axis every similarity is 1 or -1 up to rounding
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_compared_in_float32(dtype):
    torch.manual_seed(0)
    actual, expected = both(torch.randn(2, 150, 64).to(dtype), 40, 1)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def test_of_equals_the_lower_index_wins():
    actual, expected = both(torch.ones(1, 141, 8), 20, 1)
    assert actual.sources_BR.tolist() == [list(range(2, 42, 2))]
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
