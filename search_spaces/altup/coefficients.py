"""The coefficients of an AltUp update: one P and g for the layer, or one for every token.

Names: K streams, D width; streams are (K, ..., D).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["static", "per_token"]
GEMMA_CLIP = 120.0


class Coefficients(nn.Module, ABC):
    """Gives P before the layer, g after it. Both kinds start at P = I and g = 1."""

    @abstractmethod
    def prediction(self, active_D: Tensor) -> Tensor:
        """P, (K, K) or (..., K, K), from the active stream (..., D) before the layer."""

    @abstractmethod
    def gain(self, layer_output_D: Tensor) -> Tensor:
        """g, (K) or (..., K), from the layer's output (..., D)."""


class StaticCoefficients(Coefficients):
    """K^2 + K learned scalars a layer (Baykal et al. 2023). The paper gives no initialisation; identity is inferred."""

    def __init__(self, num_streams: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.eye(num_streams))
        self.g = nn.Parameter(torch.ones(num_streams))

    def prediction(self, active_D: Tensor) -> Tensor:
        """The layer's P (K, K)."""
        return self.p

    def gain(self, layer_output_D: Tensor) -> Tensor:
        """The layer's g (K)."""
        return self.g


class PerTokenCoefficients(Coefficients):
    """Coefficients of every token from a small router, as in Gemma 3n: P = I + C(r), g = 1 + c(r),
    r = tanh(W RMSNorm(x) / D).

    Parameters have the names and shapes of transformers' `Gemma3nTextAltUp`, whose state loads here. Gemma draws both
    coefficient matrices from N(0, .02); here they start at zero, so that training starts from the dense model.

    Args:
        clip: bound on the entries of both coefficient matrices, applied while training: in place for the
            prediction's, without changing the stored weights for the correction's. None for no bound.
        output_scale: also hold `correct_output_scale` (D), which Gemma 3n puts on the corrected active stream on its
            way into the per-layer embeddings (`scale_output`); models without those have no use for it.
    """

    def __init__(
        self,
        num_streams: int,
        width: int,
        clip: float | None = GEMMA_CLIP,
        epsilon: float = 1e-6,
        output_scale: bool = False,
    ) -> None:
        super().__init__()
        self.clip, self.num_streams = clip, num_streams
        self.router_norm = nn.RMSNorm(width, eps=epsilon)
        self.modality_router = nn.Linear(width, num_streams, bias=False)
        self.prediction_coefs = nn.Linear(num_streams, num_streams**2, bias=False)
        self.correction_coefs = nn.Linear(num_streams, num_streams, bias=False)
        self.correct_output_scale = nn.Parameter(torch.zeros(width)) if output_scale else None
        nn.init.normal_(self.modality_router.weight)  # its input has entries of 1 / D
        nn.init.zeros_(self.prediction_coefs.weight)
        nn.init.zeros_(self.correction_coefs.weight)

    def _routed(self, x_D: Tensor) -> Tensor:
        routed_K = self.modality_router(self.router_norm(x_D.float()).to(x_D.dtype) * x_D.shape[-1] ** -1.0)
        return torch.tanh(routed_K.float()).to(x_D.dtype)

    def prediction(self, active_D: Tensor) -> Tensor:
        """P (..., K, K) of every token."""
        routed_K = self._routed(active_D)
        if self.training and self.clip is not None:
            with torch.no_grad():
                self.prediction_coefs.weight.clamp_(-self.clip, self.clip)
        change_KK: Tensor = self.prediction_coefs(routed_K).unflatten(-1, (self.num_streams, self.num_streams))
        return torch.eye(self.num_streams, dtype=change_KK.dtype, device=change_KK.device) + change_KK

    def gain(self, layer_output_D: Tensor) -> Tensor:
        """g (..., K) of every token."""
        weight = self.correction_coefs.weight
        if self.training and self.clip is not None:
            weight = weight.clamp(-self.clip, self.clip)
        return F.linear(self._routed(layer_output_D), weight) + 1.0

    def scale_output(self, corrected_D: Tensor) -> Tensor:
        """The corrected active stream times the learned scale.

        Raises:
            ValueError: made without `output_scale`.
        """
        if self.correct_output_scale is None:
            raise ValueError("output_scale: these coefficients were made without it")
        return (corrected_D.to(self.correct_output_scale.dtype) * self.correct_output_scale).to(corrected_D.dtype)


def make_coefficients(kind: Kind, num_streams: int, width: int, clip: float | None = GEMMA_CLIP) -> Coefficients:
    """Coefficients of one layer."""
    if kind == "static":
        return StaticCoefficients(num_streams)
    return PerTokenCoefficients(num_streams, width, clip)
