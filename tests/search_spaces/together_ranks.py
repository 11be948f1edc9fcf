"""Trainings of a small network in float64, by one process or by each of two (as a script, with its number)."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from naslab.search_spaces.common.training import train_in_rungs
from naslab.search_spaces.common.training.adaptation import AdaptationOptions, adapt
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.common.training.optimisers import adamw
from naslab.search_spaces.common.training.policy import PolicyOptions
from naslab.search_spaces.common.training.together import choose, rank
from naslab.search_spaces.data.text import SpecialIds

WORLD, SIZES, EPOCHS = 2, (10, 9, 6, 5), 3
OPTIMISERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "adamw": lambda model: adamw(model.named_parameters(), 0.01, 0.05),
}
WAYS = ("ddp", "fsdp2")


class Net(nn.Module):
    """Two equal blocks, a layer that nothing uses, and a head."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)) for _ in range(2))
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(sum(SIZES), 3, generator=generator, dtype=torch.float64)
    return inputs, inputs.sum(1, keepdim=True).tanh()


def batches(model, optimiser, epoch):
    """Of sizes that two processes cannot halve; the rate falls."""
    for group in optimiser.param_groups:
        group["lr"] = group.get("base_lr", 0.1) / (1 + epoch)
    inputs, targets = data()
    order = torch.randperm(sum(SIZES), generator=torch.Generator().manual_seed(epoch))
    for chosen in order.split(SIZES):
        yield inputs[chosen], targets[chosen]


def loss_of(model, batch):
    inputs, targets = batch
    error = model(inputs) - targets
    return {"loss": error.square().mean(), "distance": error.abs().mean()}


def train(optimiser, checkpoint, until=EPOCHS):
    """By epoch: means of the losses, and the weights of the model that the task holds."""
    torch.manual_seed(0)
    model = Net().double()
    found = {}
    wanted = Wanted(PolicyOptions(accumulation=2), 0, {})
    budget = SimpleNamespace(epochs=until, rung_epochs=1)
    given = (model, OPTIMISERS[optimiser](model), batches, loss_of, budget, 0, checkpoint, 0.5, wanted)
    for rung in train_in_rungs(*given):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        found[rung.epoch] = {**{name: torch.tensor(value) for name, value in rung.facts.items()}, **state}
    return found


def adapted():
    """The weights of a small BERT after an adaptation to random words, and its loss."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    bert, words = BertForMaskedLM(config), torch.randint(5, 30, (500,))
    options = AdaptationOptions(steps=6, batch_size=5, length=12, masked=0.3)
    loss = adapt(bert, SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4), words, options, 0).loss
    return {"loss": torch.tensor(loss), **{name: tensor.clone() for name, tensor in bert.state_dict().items()}}


def main(number, folder):
    """All ways and optimisers from the start, and from what one process and the other way have begun."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=number, world_size=WORLD)
    for way in WAYS:
        choose(way)
        together = adapted()
        if rank() == 0:
            torch.save(together, folder / f"adapted-{way}.pt")
    for optimiser in OPTIMISERS:
        for way in WAYS:
            choose(way)
            whole = train(optimiser, None)
            train(optimiser, folder / f"{optimiser}-{way}", until=1)
            if rank() == 0:
                torch.save(whole, folder / f"{optimiser}-{way}.pt")
        for begun, way in (("alone", "ddp"), ("alone", "fsdp2"), ("ddp", "fsdp2"), ("fsdp2", "ddp")):
            choose(way)
            checkpoint = folder / f"{optimiser}-{begun}-{way}"
            if rank() == 0:
                shutil.copytree(folder / f"{optimiser}-{begun}", checkpoint)
            dist.barrier()
            resumed = train(optimiser, checkpoint)
            if rank() == 0:
                torch.save(resumed, folder / f"{optimiser}-{begun}-{way}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
