from types import SimpleNamespace

import pytest
import torch
from torch import nn

from naslab.search_spaces.common.training import train_in_rungs


def trained(losses, epochs=2, rung_epochs=1, **options):
    model = nn.Linear(3, 1, bias=False)
    nn.init.ones_(model.weight)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    budget = SimpleNamespace(epochs=epochs, rung_epochs=rung_epochs)

    def batches(model, optimiser, epoch):
        return losses(model, epoch)

    def loss(model, batch):
        return batch(model)

    rungs = list(train_in_rungs(model, optimiser, batches, loss, budget, 0, None, **options))
    return model, rungs


def test_what_follows_a_loss_comes_after_its_step():
    seen = []

    def losses(model, epoch):
        for step in range(2):
            before = model.weight.detach().clone()
            yield lambda model: model.weight.sum()
            seen.append((epoch, step, (before - model.weight.detach()).flatten().tolist()))

    trained(losses)
    assert [(epoch, step) for epoch, step, _ in seen] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(moved == pytest.approx([0.1] * 3) for _, _, moved in seen)


def test_a_rung_tells_the_mean_of_its_last_epoch_whose_number_of_steps_may_vary():
    def losses(model, epoch):
        for step in range(epoch + 1):
            yield lambda model, value=10 * epoch + step: 0 * model.weight.sum() + value

    _, rungs = trained(losses, epochs=5, rung_epochs=2)
    assert [(rung.epoch, rung.facts) for rung in rungs] == [(2, {"loss": 10.5}), (4, {"loss": 31.5}), (5, {"loss": 42})]


@pytest.mark.parametrize(("clip_norm", "length"), [(None, 5.0), (2.0, 2.0), (9.0, 5.0)])
def test_the_gradient_is_clipped_to_its_norm(clip_norm, length):
    towards = torch.tensor([[3.0, 0.0, 4.0]])

    def losses(model, epoch):
        yield lambda model: (model.weight * towards).sum()

    model, _ = trained(losses, epochs=1, clip_norm=clip_norm)
    assert torch.allclose(1 - model.weight, 0.1 * length * towards / 5, atol=1e-5)
