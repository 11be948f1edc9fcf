"""Trainings of a small network in float64, by one process or by each of two (as a script, with its number)."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import nn

from naslab.search_spaces.common.training import train_in_rungs
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.common.training.optimisers import adamw
from naslab.search_spaces.common.training.policy import PolicyOptions
from naslab.search_spaces.common.training.together import choose, rank

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


def main(number, folder):
    """All ways and optimisers from the start, and from what one process and the other way have begun."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=number, world_size=WORLD)
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
