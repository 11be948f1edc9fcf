"""A regression in float64, trained by the shared loop: several processes must come to what one comes to."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn
from toy_space import Space as Toy

from naslab.search_spaces import Control, Options, Task
from naslab.search_spaces.common.training import train_in_rungs
from naslab.search_spaces.common.training.together import rank

SAMPLES, BATCH = 30, 10


class RegressionOptions(Options):
    """`trouble` befalls the process of this number in its second epoch."""

    epochs: int = 3
    rung_epochs: int = 1
    trouble: str = ""
    trouble_rank: int = 1
    pids: str = ""


class Regression(Task):
    """Least squares by SGD with momentum; the score is the loss, and all weights stand beside it."""

    Options = RegressionOptions
    metric = "loss"

    @property
    def max_epochs(self):
        return self.options.epochs

    def train(self, model, seed, checkpoint=None):
        if self.options.pids:
            Path(self.options.pids, str(os.getpid())).touch()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return train_in_rungs(model, optimiser, self._batches, loss_of, self.options, seed, checkpoint)

    def _batches(self, model, optimiser, epoch):
        inputs, targets = data()
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch))
        for chosen in order.split(BATCH):
            yield inputs[chosen], targets[chosen]
        if epoch == 1 and rank() == self.options.trouble_rank:
            match self.options.trouble:
                case "raise":
                    raise ValueError("the regression broke")
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    time.sleep(1000)

    def evaluate(self, model, split, full=True):
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
        return {"loss": loss_of(model, data()).item(), **{f"w{i}": w for i, w in enumerate(weights)}}

    def controls(self):
        return (Control("nothing", "no model", lambda seed, split: {"loss": 1.0}, seeded=False),)

    def example_input(self, batch_size):
        return data()[0][:batch_size]


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, 3, generator=generator, dtype=torch.float64)
    return inputs, inputs.sum(1, keepdim=True).tanh()


def loss_of(model, batch):
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


class Space(Toy):
    """A small network, whatever the configuration."""

    Task = Regression
    builds_models = False

    def build(self, configuration):
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
