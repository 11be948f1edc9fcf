"""Indices that do not fit are refused before a loop reads or writes where they point."""

import pytest
import torch

from naslab.kernels import (
    bipartite_match,
    gather_visible,
    merge_tokens,
    patch_loss,
    restore_tokens,
    token_mask,
    unmerge_tokens,
)
from naslab.kernels._dispatch import switched

ways = pytest.mark.parametrize("way", ["fused", "reference"])
MASK = token_mask(torch.rand(2, 9), 4)
MATCHING = bipartite_match(torch.randn(2, 9, 5), 3)


def changed(indices, what):
    """The same indices with one fault."""
    value = {"negative": -1, "too large": 9}.get(what)
    if value is not None:
        return indices.index_fill(1, torch.tensor([1]), value)
    return {"int32": indices.int(), "fewer samples": indices[:1], "elsewhere": indices.to("meta")}[what]


def uses():
    """Every operation that takes indices, by the name that its error bears."""
    tokens, merged = torch.randn(2, 9, 5), torch.randn(2, 6, 5)
    for field in ("visible_BK", "rank_BL"):
        for name, use in {
            "gather": lambda mask: gather_visible(tokens, mask),
            "restore": lambda mask: restore_tokens(tokens[:, :4], mask, torch.zeros(5)),
        }.items():
            yield f"mask.{field}", name, MASK, use
    for field in MATCHING._fields:
        for name, use in {
            "merge": lambda matching: merge_tokens(tokens, torch.ones(2, 9), matching),
            "unmerge": lambda matching: unmerge_tokens(merged, matching),
        }.items():
            yield f"matching.{field}", name, MATCHING, use


@ways
@pytest.mark.parametrize("fault", ["negative", "too large", "int32", "fewer samples", "elsewhere"])
@pytest.mark.parametrize(
    ("field", "name", "indices", "use"), list(uses()), ids=lambda value: value if type(value) is str else ""
)
def test_what_an_index_may_be(way, fault, field, name, indices, use):
    attribute = field.partition(".")[2]
    faulty = indices._replace(**{attribute: changed(getattr(indices, attribute), fault)})
    with switched(way), pytest.raises(ValueError, match=r"^(mask|matching)"):
        use(faulty)
    with switched(way):
        use(indices)


@ways
@pytest.mark.parametrize("index", [-1, 4])
def test_masked_patches_lie_in_the_image(way, index):
    masked = torch.tensor([[0, index]])
    with switched(way), pytest.raises(ValueError, match=f"masked_BM: index {index} is not 0 to 3"):
        patch_loss(torch.randn(1, 2, 16), torch.randn(1, 1, 8, 8), masked, 4)


@ways
def test_masks_of_fewer_samples_are_refused(way):
    with switched(way), pytest.raises(ValueError, match="masked_BM"):
        patch_loss(torch.randn(8, 2, 16), torch.randn(8, 1, 8, 8), torch.zeros(4, 2, dtype=torch.int64), 4)
