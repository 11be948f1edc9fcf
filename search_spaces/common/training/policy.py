"""The training policy: in which number format, memory layout and form a step runs, whatever the task.

What a study asks for is `PolicyOptions`, where `auto` may stand; what a training follows is a `Policy`. Only the shared
loop applies it: a task never sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from naslab.kernels._compiling import hear_torch_compile
from naslab.search_spaces.common.training.explicit import ExplicitForms
from naslab.search_spaces.common.training.recomputation import recomputed_blocks
from naslab.search_spaces.options import Mechanical, Options

Precision = Literal["float32", "bfloat16", "float16"]
MemoryFormat = Literal["contiguous", "channels_last"]
Loss = Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]]
"""A model's loss of a batch: a scalar, or named scalars of which `loss` is the one to descend."""


Batches = Callable[[nn.Module, torch.optim.Optimizer, int], Iterator[Any]]
"""The batches of an epoch (from 0), one a step, for a model and its optimiser.

What it does before a `yield`, such as setting the learning rate, comes before the optimiser's step; what it does after
the `yield` comes after the step.
"""


def _in_words(value: Any) -> Any:
    """YAML reads off and on as truth values, and older studies say false and true."""
    return {False: "off", True: "on"}[value] if isinstance(value, bool) else value


class PolicyOptions(Options):
    """What a study may ask of every task's training; `auto` is decided by a measurement (docs/training.md)."""

    precision: Literal["auto", Precision] = "auto"
    """Of the forward's products; weights, losses, statistics and optimiser are float32 in any case."""
    memory_format: Annotated[Literal["auto", MemoryFormat], Mechanical()] = "auto"
    compile: Annotated[Literal["auto", "off", "on"], BeforeValidator(_in_words), Mechanical()] = "auto"
    """torch.compile of the loss."""
    cuda_graphs: Annotated[Literal["auto", "off", "on"], BeforeValidator(_in_words), Mechanical()] = "auto"
    """On a GPU: record what a step launches, and then launch it at once; `off` records no random views either."""
    accumulation: int = Field(1, ge=1)
    """Parts that a batch is cut into, one after the other through the model: less memory, the same batch."""
    recompute: Annotated[bool, Mechanical()] = False
    """Activation checkpointing: repeated blocks are computed again in the backward, not kept."""

    @property
    def plain(self) -> Policy:
        """What is asked for, and plain PyTorch where that is `auto`."""
        return Policy(
            "float32" if self.precision == "auto" else self.precision,
            "contiguous" if self.memory_format == "auto" else self.memory_format,
            self.compile == "on",
            self.cuda_graphs == "on",
            self.accumulation,
            self.recompute,
        )


@dataclass(frozen=True)
class Policy:
    """How a step runs; the defaults are plain PyTorch. See PolicyOptions for the fields."""

    precision: Precision = "float32"
    memory_format: MemoryFormat = "contiguous"
    compile: bool = False
    cuda_graphs: bool = False
    accumulation: int = 1
    recompute: bool = False

    def __str__(self) -> str:
        """In words: the number format, then whatever is not plain."""
        words: list[str] = [self.precision, *([self.memory_format] if self.memory_format != "contiguous" else [])]
        words += ["compiled"] if self.compile else []
        words += ["CUDA graphs"] if self.cuda_graphs else []
        words += [f"{self.accumulation} parts a batch"] if self.accumulation > 1 else []
        return " ".join([*words, *(["recomputed"] if self.recompute else [])])

    @property
    def records(self) -> bool:
        """Whether steps are to be CUDA graphs; none can put back random numbers for what is computed again."""
        return self.cuda_graphs and not self.recompute

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoint and record."""
        return asdict(self)

    @contextmanager
    def forward(self, device: torch.device) -> Iterator[None]:
        """The context of one forward and no more.

        Autocast keeps the rounded weights until its context ends. One that spans several optimiser steps goes on with
        the weights of the first, and a contrastive model collapses without an error.
        """
        if self.precision == "float32":
            yield
            return
        ours = device.type == "cpu" and not self.recompute  # a second forward must do as the first
        with (
            torch.autocast(device.type, getattr(torch, self.precision)),
            ExplicitForms() if ours else nullcontext(),
        ):
            yield

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Scales the loss where gradients would underflow in float16; does nothing otherwise."""
        return torch.amp.GradScaler(device.type, enabled=self.precision == "float16")

    def blocks(self, model: nn.Module) -> AbstractContextManager[None]:
        """Within it the model's repeated blocks keep no activations, where the policy says so."""
        return recomputed_blocks(model) if self.recompute else nullcontext()

    def compiled(self, loss: Loss) -> Loss:
        """The loss as it is to be called."""
        if not self.compile:
            return loss
        hear_torch_compile()
        return torch.compile(loss)

    def place(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Give the weights of convolutions, and what the optimiser keeps of them, the policy's layout.

        Fused optimisers walk weight, gradient and state in memory order, so that all must have the same.
        """
        layout = self._layout
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.to(memory_format=layout)
        for weight, state in optimiser.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.ndim == 4 and value.shape == weight.shape:
                    state[name] = value.to(memory_format=layout)

    def parts(self, batch: Any) -> Iterator[tuple[Any, float]]:
        """The batch, laid out, as parts as even as can be, with the share of the samples that each has."""
        batch = self.laid_out(batch)
        if self.accumulation == 1:
            yield batch, 1.0
            return
        size = len(tree_leaves(batch)[0])
        leaves, structure = tree_flatten(batch)
        number = min(self.accumulation, size)
        for part in zip(*(leaf.tensor_split(number) for leaf in leaves), strict=True):
            yield tree_unflatten(part, structure), len(part[0]) / size

    def laid_out(self, batch: Any) -> Any:
        """The batch with its images in the policy's layout."""
        return tree_map(self._laid_out, batch)

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format

    def _laid_out(self, value: Any) -> Any:
        is_images = isinstance(value, Tensor) and value.ndim == 4 and self.memory_format == "channels_last"
        return value.to(memory_format=self._layout) if is_images else value
