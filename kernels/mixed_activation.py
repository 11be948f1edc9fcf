"""The mixed operation of a searched MLP layer: y = sum_k w_k act_k(BatchNorm_k(x_k)).

The K parallel linears of a layer are one matrix product, so their outputs arrive stacked as (B, K, D); one
batch normalisation with K*D features then stands for K of D each. Source: the layer of the NASiam supernet
(Heuillet et al. 2023), after DARTS (Liu et al. 2019), equation 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "elu": F.elu,
}
"""The activations that may be mixed, by the name they carry in a genotype."""


def mixed_activation(normalised_BKD: Tensor, mixing_K: Tensor, activations: tuple[str, ...]) -> Tensor:
    """Mix K activated candidates into one output of shape (B, D).

    Args:
        normalised_BKD: batch-normalised outputs of the K parallel linears, floating point.
        mixing_K: one weight per candidate.
        activations: name of each candidate's activation, a key of ACTIVATIONS.

    Raises:
        ValueError: shapes that do not agree, or an unknown activation.
    """
    if normalised_BKD.ndim != 3 or normalised_BKD.shape[1] != len(activations):
        raise ValueError(
            f"normalised_BKD: shape {tuple(normalised_BKD.shape)} is not (batch, {len(activations)}, features)"
        )
    if mixing_K.shape != (len(activations),):
        raise ValueError(f"mixing_K: shape {tuple(mixing_K.shape)} is not ({len(activations)},)")
    for name in activations:
        if name not in ACTIVATIONS:
            raise ValueError(f"activations: {name!r} is not one of {', '.join(ACTIVATIONS)}")
    activated = [ACTIVATIONS[name](normalised_BKD[:, k]) for k, name in enumerate(activations)]
    return torch.einsum("kbd,k->bd", torch.stack(activated), mixing_K.to(normalised_BKD.dtype))
