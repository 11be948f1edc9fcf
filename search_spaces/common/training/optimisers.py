"""AdamW over groups of parameters: which of them decay, and rates that fall from layer to layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW

BASE_BATCH = 256
"""The batch that a scaled learning rate is stated for."""


def scaled_rate(learning_rate: float, batch_size: int) -> float:
    """The rate that grows linearly with the batch, stated for 256 samples (Goyal et al. 2017)."""
    return learning_rate * batch_size / BASE_BATCH


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter multiplies features: decay is for these, not for biases and norms."""
    return parameter.ndim > 1


@dataclass(frozen=True)
class LayerDecay:
    """The rate falls by `factor` with each layer between a parameter and the head (Bao et al. 2022, BEiT).

    Attributes:
        last: the head's layer, whose rate is the full one.
        layer_of: a parameter's layer by its name, 0 for the embedding; None leaves it out of the training.
    """

    factor: float
    last: int
    layer_of: Callable[[str], int | None]

    def rate_share(self, layer: int) -> float:
        """Share of the full rate."""
        return self.factor ** (self.last - layer)


def adamw(
    named: Iterable[tuple[str, nn.Parameter]],
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    decays: Callable[[str, nn.Parameter], bool] = is_matrix,
    layers: LayerDecay | None = None,
) -> AdamW:
    """AdamW over the trainable of the named parameters; each group carries the `base_lr` that a schedule scales."""
    layers = layers or LayerDecay(1.0, 0, lambda name: 0)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        layer = layers.layer_of(name)
        if layer is None or not parameter.requires_grad:
            continue
        # At one rate for all layers nothing tells them apart, and fewer groups step faster.
        layer = layer if layers.factor < 1 else layers.last
        groups.setdefault((layer, decays(name, parameter)), []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "base_lr": learning_rate * layers.rate_share(layer),
                "weight_decay": weight_decay if decayed else 0.0,
            }
            for (layer, decayed), parameters in groups.items()
        ],
        lr=learning_rate,
        betas=betas,
        fused=True,
    )
