import pytest
import torch

from naslab.efficiency import count
from naslab.kernels import TokenMask, gather_visible, restore_tokens, token_mask
from naslab.kernels._dispatch import switched


@pytest.mark.parametrize("way", ["fused", "reference"])
def test_ranks_are_the_order_of_the_noise(way):
    noise = torch.rand(3, 50)
    with switched(way):
        mask = token_mask(noise, 12)
    order = noise.argsort(1)
    assert torch.equal(torch.cat([mask.visible_BK, mask.masked_BM], 1), order)
    assert torch.equal(mask.rank_BL, order.argsort(1))


def test_equal_noise_keeps_the_order_of_tokens():
    mask = token_mask(torch.zeros(1, 9), 4)
    assert mask.visible_BK.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("way", ["fused", "reference"])
def test_restoring_what_was_gathered_gives_the_tokens_back(way):
    tokens, token = torch.randn(2, 9, 5), torch.full((5,), 7.0)
    mask = token_mask(torch.rand(2, 9), 4)
    with switched(way):
        restored = restore_tokens(gather_visible(tokens, mask), mask, token)
    visible = (mask.rank_BL < 4)[..., None]
    assert torch.equal(restored, torch.where(visible, tokens, token))


def test_the_profiler_sees_it():
    tokens = torch.randn(2, 9, 5, requires_grad=True)
    token, positions = torch.zeros(5, requires_grad=True), torch.randn(9, 5)

    def step():
        mask = token_mask(torch.rand(2, 9), 4)
        restore_tokens(gather_visible(tokens, mask, positions), mask, token, positions).sum().backward()

    with switched("fused"):
        counted = count(step)
    assert counted.coverage == 1, counted.uncovered
    assert counted.by_operation["naslab::token_gather"].pointwise == 2 * 4 * 5
    assert counted.by_operation["naslab::token_restore"].pointwise == 2 * 9 * 5


def test_wrong_arguments_are_named():
    mask = token_mask(torch.rand(2, 9), 4)
    assert isinstance(mask, TokenMask)
    with pytest.raises(ValueError, match="noise_BL"):
        token_mask(torch.rand(9), 4)
    with pytest.raises(ValueError, match="visible: 10"):
        token_mask(torch.rand(2, 9), 10)
    with pytest.raises(ValueError, match="tokens_BLD"):
        gather_visible(torch.rand(2, 8, 5), mask)
    with pytest.raises(ValueError, match="positions_LD"):
        gather_visible(torch.rand(2, 9, 5), mask, torch.rand(8, 5))
    with pytest.raises(ValueError, match="visible_BKD"):
        restore_tokens(torch.rand(2, 5, 5), mask, torch.rand(5))
    with pytest.raises(ValueError, match="mask_token_D"):
        restore_tokens(torch.rand(2, 4, 5), mask, torch.rand(6))
