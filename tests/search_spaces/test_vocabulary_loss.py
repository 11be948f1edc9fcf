"""The cross-entropy over a vocabulary, and that Liger's is used only where nothing else reads the logits."""

import pytest
import torch
from torch.nn import functional as F

from naslab.search_spaces.common.objectives import vocabulary_loss as module
from naslab.search_spaces.data.text import IGNORED


def test_it_is_torch_s_and_nothing_where_ignored():
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 4, 20, requires_grad=True), torch.randint(20, (3, 4))
    targets[1, 2:] = IGNORED
    found = module.vocabulary_loss(logits, targets)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(3, 4)
    assert torch.equal(found, expected)
    assert found[1, 2:].eq(0).all()


def test_half_precision_is_computed_in_float32():
    logits, targets = torch.randn(2, 3, 50).bfloat16(), torch.randint(50, (2, 3))
    assert torch.equal(module.vocabulary_loss(logits, targets), module.vocabulary_loss(logits.float(), targets))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sum_and_mean_are_over_what_is_not_ignored(reduction):
    logits, targets = torch.randn(3, 4, 20), torch.randint(20, (3, 4))
    targets[0] = IGNORED
    each = module.vocabulary_loss(logits, targets)
    expected = each.sum() if reduction == "sum" else each.sum() / 8
    torch.testing.assert_close(module.vocabulary_loss(logits, targets, reduction), expected)


class OnGpu(torch.Tensor):
    is_cuda = True


@pytest.mark.parametrize("read_again", [False, True])
def test_liger_overwrites_logits_and_so_gets_none_that_are_read_again(read_again, monkeypatch):
    monkeypatch.setattr(module, "has_liger", lambda: True)
    logits = torch.randn(6, 5).as_subclass(OnGpu)
    assert module.suits_liger(logits, read_again) == (not read_again)
    assert not module.suits_liger(torch.randn(6, 5), read_again)
    monkeypatch.setattr(module, "has_liger", lambda: False)
    assert not module.suits_liger(logits, read_again)
