"""AltUp around any stack of layers: each layer computes on one stream of K, all streams are predicted and corrected.

Baykal, Cutler, Dikkala, Ghosh, Panigrahy, Wang, *Alternating Updates for Efficient Transformers* (NeurIPS 2023).
For layer l with active stream a:

    predict  x_hat_i = sum_j p_ij x_j;    compute  y = L(x_a);    correct  x_i <- x_hat_i + g_i (y - x_hat_a)

Sequence-AltUp does the same along the sequence. Names: K streams, B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from naslab.errors import InputError
from naslab.kernels import altup
from naslab.search_spaces.altup.coefficients import GEMMA_CLIP, Coefficients, Kind, make_coefficients
from naslab.search_spaces.common.modules.gated_transformer import Context

Selection: TypeAlias = Literal["alternating", "same"]
Expansion: TypeAlias = Literal["replicate", "split"]
Collapse: TypeAlias = Literal["mean", "sum", "concatenate"]
LayerInput: TypeAlias = Literal["stream", "prediction"]


class AltUpStack(nn.Sequential):
    """`layers` with K streams between them; takes and gives what they do, so it can stand in their place.

    A layer takes hidden states first and gives them alone or first of a tuple. The stack's own forward hands further
    arguments to every layer. A model that loops over its layers itself may loop over this one: the streams (K, ..., D)
    then are its hidden states between two layers:

        vit.blocks = AltUpStack(vit.blocks, 2)
        t5.encoder.block = AltUpStack(t5.encoder.block, 2)

    Args:
        layers: the layers; their weights are kept.
        num_streams: K.
        selection: which stream layer l computes on: l mod K, or always the first.
        coefficients: K^2 + K scalars a layer, or from every token by Gemma 3n's router.
        width: D of one stream; only coefficients per token need it.
        expand: the input (..., D) replicated K times (Recycled-AltUp), or (..., K*D) split into K streams.
        collapse: streams to their mean or sum (..., D), or side by side (..., K*D).
        layer_input: what the layer sees: the stream itself, as in the paper (from memory; the default with static
            coefficients), or its prediction, as in Gemma 3n (the default with coefficients per token).
        clip: see PerTokenCoefficients.

    At its initialisation, with "replicate" and "mean", it gives the same bits as the plain layers.

    Raises:
        InputError: no layers, K below 1, or no width for coefficients per token.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        num_streams: int,
        selection: Selection = "alternating",
        coefficients: Kind = "static",
        *,
        width: int | None = None,
        expand: Expansion = "replicate",
        collapse: Collapse = "mean",
        layer_input: LayerInput | None = None,
        clip: float | None = GEMMA_CLIP,
    ) -> None:
        chosen = list(layers)
        if not chosen:
            raise InputError("layers: an AltUp stack needs at least one")
        if num_streams < 1:
            raise InputError(f"streams: {num_streams} is not allowed; use an integer from 1")
        if coefficients == "per_token" and width is None:
            raise InputError("width: coefficients per token need the width of a stream")
        sees = layer_input or ("stream" if coefficients == "static" else "prediction")
        wrapped = [
            AltUpLayer(
                layer,
                make_coefficients(coefficients, num_streams, width or 0, clip),
                index % num_streams if selection == "alternating" else 0,
                sees,
            )
            for index, layer in enumerate(chosen)
        ]
        wrapped[0].expand, wrapped[0].num_streams = expand, num_streams
        wrapped[-1].collapse = collapse
        super().__init__(*wrapped)

    def forward(self, hidden: Tensor, *arguments: Any, **keywords: Any) -> Tensor:  # type: ignore[override]
        """Hidden states through all layers, (..., D) or (..., K*D) as `expand` and `collapse` say."""
        for layer in self:
            outputs = layer(hidden, *arguments, **keywords)
            hidden = outputs[0] if isinstance(outputs, tuple) else outputs
        return hidden


class AltUpLayer(nn.Module):
    """One layer with its predict and correct: streams (K, ..., D) in and out, but for the ends of a stack."""

    def __init__(self, layer: nn.Module, coefficients: Coefficients, active: int, layer_input: LayerInput) -> None:
        super().__init__()
        self.layer, self.coefficients, self.active, self.layer_input = layer, coefficients, active, layer_input
        self.expand: Expansion | None = None
        self.collapse: Collapse | None = None
        self.num_streams = 0

    def forward(self, hidden: Tensor, *arguments: Any, **keywords: Any) -> Any:
        """The layer's outputs, its hidden states replaced by the updated streams."""
        streams = hidden if self.expand is None else expanded(hidden, self.num_streams, self.expand)
        prediction = self.coefficients.prediction(streams[self.active])
        seen = streams[self.active]
        if self.layer_input == "prediction":
            seen = mixed(streams, prediction[..., self.active, :].to(streams.dtype))
        outputs = self.layer(seen, *arguments, **keywords)
        computed = outputs[0] if isinstance(outputs, tuple) else outputs
        new = altup(streams, computed, prediction, self.coefficients.gain(computed), self.active)
        if self.collapse is not None:
            new = collapsed(new, self.collapse)
        return (new, *outputs[1:]) if isinstance(outputs, tuple) else new


class SequenceAltUpLayer(nn.Module):
    """One layer on every `stride`-th token; the tokens between are predicted and corrected from the last one computed.

    y_hat_i = a1 x_i + a2 x_s, y_i = y_hat_i + b (L(x)_s - y_hat_s), with s the last sampled position up to i: three
    scalars a layer. No token sees a later one, so it suits causal layers, too. Starts at a1 = 1, a2 = 0, b = 1
    (inferred), where the tokens between get the sampled token's increment.

    Raises:
        InputError: from forward, the stride is longer than the sequence.
    """

    def __init__(self, layer: nn.Module, stride: int) -> None:
        super().__init__()
        self.layer, self.stride = layer, stride
        self.scalars = nn.Parameter(torch.tensor([1.0, 0.0, 1.0]))

    def forward(self, x_BLD: Tensor, context: Context) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        length = x_BLD.shape[1]
        if self.stride > length:
            raise InputError(f"stride: {self.stride} is longer than the sequence of {length} tokens")
        sampled_BSD = x_BLD[:, :: self.stride]
        computed_BSD = self.layer(sampled_BSD, context.thinned(self.stride))
        own, start, gain = self.scalars.to(x_BLD.dtype).unbind()
        change_BSD = (start - gain * (own + start)) * sampled_BSD
        # As in the kernel: what cancels is summed before the layer's output is added.
        spread = torch.arange(length, device=x_BLD.device) // self.stride
        return (own * x_BLD + change_BSD[:, spread]) + (gain * computed_BSD)[:, spread]  # type: ignore[no-any-return]


def mixed(streams: Tensor, weights: Tensor) -> Tensor:
    """sum_j w_j x_j of streams (K, ..., D), weights (K) or (..., K)."""
    total = weights[..., 0, None] * streams[0]
    for j in range(1, len(streams)):
        total = total + weights[..., j, None] * streams[j]
    return total


def expanded(x: Tensor, num_streams: int, how: Expansion) -> Tensor:
    """(..., D) or (..., K*D) to streams (K, ..., D).

    Raises:
        InputError: K does not divide the width to split.
    """
    if how == "replicate":
        return x.expand(num_streams, *x.shape)
    if x.shape[-1] % num_streams:
        raise InputError(f"streams: {num_streams} does not divide the width {x.shape[-1]} that is to be split")
    return x.unflatten(-1, (num_streams, -1)).movedim(-2, 0)  # type: ignore[no-any-return]


def collapsed(streams: Tensor, how: Collapse) -> Tensor:
    """Streams (K, ..., D) to (..., D) or (..., K*D)."""
    if how == "sum":
        return streams.sum(0)
    if how == "concatenate":
        return streams.movedim(0, -2).flatten(-2)
    # About the first stream, so that the mean of equal streams is each of them to the bit.
    return streams[0] + (streams[1:] - streams[0]).sum(0) / len(streams)
