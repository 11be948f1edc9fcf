"""The cross-entropy over a vocabulary, and that Liger's is used only where nothing else reads the logits."""

import sys
from types import ModuleType

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


@pytest.mark.parametrize("read_again", [False, True])
def test_liger_overwrites_logits_and_so_gets_none_that_are_read_again(read_again, monkeypatch):
    asked = []
    liger = ModuleType("liger_kernel.transformers.functional")
    liger.liger_cross_entropy = lambda logits, targets, **how: asked.append(how) or logits[:, 0]
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", liger)
    monkeypatch.setattr(module, "has_liger", lambda: True)
    rows = torch.randn(6, 5)

    class OnGpu(torch.Tensor):
        is_cuda = True

    logits = rows.as_subclass(OnGpu).view(2, 3, 5)
    found = module.vocabulary_loss.__wrapped__(logits, torch.zeros(2, 3, dtype=torch.int64), read_again)
    assert len(asked) == (not read_again)
    assert found.shape == (2, 3)
    if asked:
        assert asked == [{"ignore_index": IGNORED, "reduction": "none"}]
