from types import SimpleNamespace

import pytest
import torch
from torch import nn

from naslab.search_spaces.common.training import train_in_rungs
from naslab.search_spaces.common.training.checkpoint import restore_rng, resume_training, rng_state, save_training
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.common.training.policy import PolicyOptions
from naslab.search_spaces.task import TrainingDiverged


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


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_training_without_a_finite_gradient_has_diverged_in_every_number_format(precision):
    """In float16 such steps are left out, so that the loss stays as it is."""

    def losses(model, epoch):
        for _ in range(40):
            yield lambda model: (0 * model.weight).sum().sqrt() + 1

    with pytest.raises(TrainingDiverged):
        trained(losses, wanted=Wanted(PolicyOptions(precision=precision, compile="off"), 1, {}))


@pytest.fixture
def saved(tmp_path):
    """A training saved after a step, random states of a GPU with it."""
    model = nn.Linear(3, 1)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    save_training(tmp_path, 1, model, optimiser.state_dict(), {})
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_an_optimiser_keeps_its_count_of_steps_where_torch_does(saved):
    """On the device they would be read back at every step."""
    model = nn.Linear(3, 1, device="meta")
    optimiser = torch.optim.Adam(model.parameters())
    assert resume_training(saved, model, optimiser, torch.device("meta"))[0] == 1
    for state in optimiser.state.values():
        assert state["step"].device.type == "cpu"
        assert state["exp_avg"].device.type == "meta"


@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_training_goes_on_beside_other_gpus_than_it_began_with(number, saved, monkeypatch):
    given = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: given.append((state.tolist(), str(device))))
    state = rng_state(torch.device("cpu"))
    states = [torch.ByteTensor([7]), torch.ByteTensor([8])]
    for cuda in (None, states[1], [], states):  # the last two are of earlier versions
        restore_rng({**state, "cuda": cuda}, torch.device("cuda:1") if number else torch.device("cpu"))
    assert given == ([([8], "cuda:1")] * 2 if number else [])
