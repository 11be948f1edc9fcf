"""A space whose training is waiting, with checkpoints, and which keeps its own record of when it worked."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from naslab.search_spaces import (
    Configuration,
    Control,
    Integer,
    Options,
    Parameter,
    Rung,
    SearchSpace,
    Split,
    Task,
)


class WaitingOptions(Options):
    """`witness` is the folder of the task's own record: a file an attempt, a line a step, with the time."""

    epochs: int = Field(6, gt=0)
    epoch_seconds: float = Field(0.3, gt=0)
    witness: str


class Waiting(Task):
    """Sleeps in steps of 20 ms and goes on from its checkpoint; the score is the width."""

    Options = WaitingOptions
    metric = "score"

    @property
    def max_epochs(self) -> int:
        """Epochs of waiting."""
        return int(self.options.epochs)

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """One rung an epoch, a checkpoint before each."""
        assert checkpoint is not None
        state = checkpoint / "state.json"
        done = json.loads(state.read_text())["epoch"] if state.exists() else 0
        with Path(self.options.witness, uuid.uuid4().hex).open("w", buffering=1) as witness:
            witness.write(f"{time.time()}\n")
            for epoch in range(done, self.max_epochs):
                end = time.monotonic() + self.options.epoch_seconds
                while time.monotonic() < end:
                    time.sleep(0.02)
                    witness.write(f"{time.time()}\n")
                checkpoint.mkdir(parents=True, exist_ok=True)
                partial = checkpoint / "partial"
                partial.write_text(json.dumps({"epoch": epoch + 1}))
                os.replace(partial, state)
                witness.write(f"{time.time()}\n")
                yield Rung(epoch + 1, {})

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """The width."""
        return {"score": float(sum(p.numel() for p in model.parameters()))}

    def controls(self) -> tuple[Control, ...]:
        """None."""
        return ()

    def example_input(self, batch_size: int) -> torch.Tensor:
        """Ones."""
        return torch.ones(batch_size, 4)


class Space(SearchSpace):
    """A linear layer of some width."""

    name = "chaos"
    Options = Options
    Task = Waiting

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The width."""
        return (Integer("width", 1, 1000),)

    @property
    def reference(self) -> Configuration:
        """The narrowest."""
        return self.configuration({"width": 1})

    def build(self, configuration: Configuration) -> nn.Module:
        """The layer."""
        return nn.Linear(4, int(str(configuration["width"])))


def nothing(slot: object) -> None:
    """A call whose worker has loaded what a trial needs; see executors.py."""
    import naslab.runs.worker  # noqa: F401
