"""The vocabulary loss by Liger's own kernel, run by Triton's interpreter, against PyTorch's."""

import pytest
import torch

from naslab.search_spaces.common.objectives import vocabulary_loss as module
from naslab.search_spaces.data.text import IGNORED

pytest.importorskip("liger_kernel")


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_liger_gives_the_same_loss_and_gradient(reduction, monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 70, dtype=torch.float32)
    targets = torch.randint(70, (2, 5))
    targets[1, 3:] = IGNORED
    weight = torch.rand(2, 5) if reduction == "none" else torch.tensor(0.7)
    found = []
    for by_liger in (False, True):
        monkeypatch.setattr(module, "suits_liger", lambda *_, by_liger=by_liger: by_liger)
        leaf = logits.clone().requires_grad_()
        loss = module.vocabulary_loss(leaf * 1.0, targets, reduction)  # Liger writes over what it is given
        (gradient,) = torch.autograd.grad((loss * weight).sum(), leaf)
        found.append((loss.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
