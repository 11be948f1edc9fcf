"""A space whose training is arithmetic and whose misbehaviour is a parameter: what the driver's tests run."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from naslab.errors import InputError
from naslab.search_spaces import (
    Categorical,
    Chain,
    Configuration,
    Control,
    Options,
    Parameter,
    Rung,
    SearchSpace,
    Split,
    Task,
    derive_seed,
)
from naslab.whole_file import write_whole

OPERATIONS = ("good", "fair", "poor")
MORE_PARAMETERS: tuple[Parameter, ...] = ()
"""Tests let the space grow by changing these."""


class ToyOptions(Options):
    """`trouble` befalls the reference with seed `trouble_seed`; as `csv`, `slow data` or `negative`, the task itself.

    `returns` says what `evaluate` hands over.
    """

    epochs: int = Field(2, gt=0)
    seconds: float = 0.01
    evaluate_seconds: float = 0.0
    returns: str = "float"
    rungs: bool = True
    trouble: str = ""
    trouble_seed: int = 1
    luck: float = 0.0
    """Noise of this range that depends on the seed and on the configuration, so that pairs do not cancel it."""
    marker: str = ""


class ToyTask(Task):
    """Score: ten per good layer, five per fair one, plus a little by seed; rises with the epochs."""

    Options = ToyOptions
    metric = "score"

    def __init__(self, space, options, device):
        super().__init__(space, options, device)
        if options.trouble == "csv":
            raise ValueError("row 3\nhas no label")
        if options.trouble == "slow data":
            time.sleep(20)

    @property
    def max_epochs(self) -> int:
        return -3 if self.options.trouble == "negative" else int(self.options.epochs)

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        for epoch in range(self.max_epochs):
            time.sleep(self.options.seconds)
            luck = derive_seed(seed, int(model.value)) % 1000 / 1000 - 0.5
            if self.options.trouble and seed == self.options.trouble_seed and epoch == 1:
                self._misbehave(model)
            model.trained = torch.tensor((epoch + 1) / self.max_epochs)
            model.noise = torch.tensor(derive_seed(seed) % 100 / 100 + self.options.luck * luck)
            if self.options.rungs:
                yield Rung(epoch + 1, {"loss": 1.0 / (epoch + 1)})

    def _misbehave(self, model: nn.Module) -> None:
        match self.options.trouble:
            case "raise":
                raise ValueError("the toy broke\non two lines")
            case "raise_once":
                marker = Path(self.options.marker)
                if not marker.exists():
                    marker.touch()
                    raise ValueError("the toy broke once")
            case "gate":
                while not Path(self.options.marker).exists():
                    time.sleep(0.02)
            case "hang":
                time.sleep(10_000)
            case "print":
                print("from Python")
                print("to the error stream", file=sys.stderr)
                os.write(1, b"from native code\n")
                subprocess.run(["echo", "from a child"], check=True)
            case "nan":
                model.value = torch.tensor(float("nan"))
            case "input":
                raise InputError("/full: cannot be written: No space left on device")
            case "disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/weights")
            case "die_once":
                marker = Path(self.options.marker)
                if not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        time.sleep(self.options.evaluate_seconds)
        score = model.value * model.trained + model.noise
        match self.options.returns:
            case "nan for some" if model.value % 10:
                return {"score": math.nan}
            case "tensor":
                return {"score": score}
            case "float32":
                return {"score": score.numpy()[()]}
            case "none":
                return None
            case "text":
                return {"score": str(float(score))}
            case "another name":
                return {"accuracy": float(score), "f1": 0.5}
        return {"score": float(score)}

    def controls(self) -> tuple[Control, ...]:
        return (
            Control("nothing", "no model at all", lambda seed, split: {"score": 0.0}, seeded=False),
            Control("chance", "a random model", lambda seed, split: {"score": derive_seed(seed) % 7 / 7}),
        )

    def example_input(self, batch_size: int) -> torch.Tensor:
        return torch.ones(batch_size, 4)


class IndexTask(ToyTask):
    """Trains nothing: `train` looks at the data once and yields no rung."""

    @property
    def max_epochs(self) -> int:
        return 0

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        time.sleep(self.options.seconds)
        model.trained = torch.tensor(1.0)
        model.noise = torch.tensor(derive_seed(seed) % 100 / 100)
        return iter(())


class Toy(nn.Module):
    """A linear layer, so that there are weights to save, and the score it stands for."""

    value: torch.Tensor
    trained: torch.Tensor
    noise: torch.Tensor

    def __init__(self, value: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        for name, number in (("value", value), ("trained", 0.0), ("noise", 0.0)):
            self.register_buffer(name, torch.tensor(number))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x)
        return out


class Space(SearchSpace):
    """Four layers of three operations; the reference is outside what is proposed."""

    name = "toy"
    Options = Options
    Task = ToyTask

    @property
    def parameters(self):
        return (
            Categorical("head", ("cell", "published"), proposed=("cell",)),
            Chain("cell", OPERATIONS, 4),
            *MORE_PARAMETERS,
        )

    @property
    def reference(self) -> Configuration:
        return self.configuration({"head": "published", "cell": ["fair"] * 4})

    def build(self, configuration: Configuration) -> nn.Module:
        worth = {"good": 10.0, "fair": 5.0, "poor": 0.0}
        return Toy(sum(worth[operation] for operation in configuration.chain("cell")))


class SizedToy(Toy):
    """As wide as it has good layers, so that what is good costs more."""

    def __init__(self, value, width):
        super().__init__(value)
        self.linear = nn.Linear(4, width)


class Sized(Space):
    """The toy space with a price: four weights and a bias for each good layer, and for one more."""

    def build(self, configuration):
        cell = configuration.chain("cell")
        worth = {"good": 10.0, "fair": 5.0, "poor": 0.0}
        return SizedToy(sum(worth[operation] for operation in cell), 1 + cell.count("good"))


class Index(Space):
    """The toy space with a task that trains nothing."""

    Task = IndexTask


class ElsewhereTask(ToyTask):
    """Its data are where an environment variable says."""

    def __init__(self, space, options, device):
        super().__init__(space, options, device)
        if not Path(os.environ.get("TOY_DATA", "nowhere")).is_dir():
            raise InputError("TOY_DATA: no such folder")


class Elsewhere(Space):
    """The toy space with data that not every machine has."""

    Task = ElsewhereTask


class ResumingTask(ToyTask):
    """Goes on after the last epoch of its checkpoint; each epoch waits until its own gate is open."""

    def train(self, model, seed, checkpoint=None):
        done = checkpoint / "epochs"
        for epoch in range(int(done.read_text()) if done.exists() else 0, self.max_epochs):
            while not Path(f"{self.options.marker}{epoch}").exists():
                time.sleep(0.02)
            model.trained = torch.tensor((epoch + 1) / self.max_epochs)
            model.noise = torch.tensor(derive_seed(seed) % 100 / 100)
            checkpoint.mkdir(parents=True, exist_ok=True)
            write_whole(done, str(epoch + 1))
            yield Rung(epoch + 1, {})


class Resuming(Space):
    """The toy space with checkpoints."""

    Task = ResumingTask
