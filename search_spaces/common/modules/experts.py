"""A sparse mixture of experts: each token runs through its top-k experts, each expert takes a bounded number of tokens.

Switch Transformer (Fedus, Zoph, Shazeer 2021): router in float32, capacity, load-balancing loss. Tokens take their
places in order of position, so that what comes later in a sequence never changes what came before; a token that finds
no place passes by its residual connection alone. Shapes do not depend on the routing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ExpertSizes:
    """`number` experts of width `hidden`, `top_k` for each token; `partial` keeps the dense layer beside them."""

    number: int
    hidden: int
    top_k: int = 1
    capacity_factor: float = 1.25
    partial: bool = False

    def capacity(self, tokens: int) -> int:
        """Tokens that one expert takes out of `tokens`."""
        return min(tokens, math.ceil(self.capacity_factor * self.top_k * tokens / self.number))


class MixtureOfExperts(nn.Module):
    """(..., D) -> (..., D). `take_balance` gives the load-balancing loss of the last forward."""

    def __init__(self, width: int, sizes: ExpertSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.router = nn.Parameter(torch.randn(sizes.number, width) * width**-0.5)
        self.gate = nn.Parameter(torch.randn(sizes.number, width, sizes.hidden) * width**-0.5)
        self.up = nn.Parameter(torch.randn(sizes.number, width, sizes.hidden) * width**-0.5)
        self.down = nn.Parameter(torch.randn(sizes.number, sizes.hidden, width) * sizes.hidden**-0.5)
        self._balance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Route, compute, weigh by the router's probability, add over the top-k."""
        sizes, x_TD = self.sizes, x.flatten(0, -2)
        tokens, width = x_TD.shape
        probabilities_TE = F.linear(x_TD.float(), self.router.float()).softmax(-1)
        gates_TK, chosen_TK = probabilities_TE.topk(sizes.top_k, dim=-1)
        # N = T * K, the choices of a token side by side.
        one_hot_NE = (chosen_TK.flatten()[:, None] == torch.arange(sizes.number, device=x.device)).long()
        capacity = sizes.capacity(tokens)
        place_N = (one_hot_NE.cumsum(0) * one_hot_NE).sum(1) - 1
        kept_N = place_N < capacity
        seat_N = torch.where(kept_N, chosen_TK.flatten() * capacity + place_N, sizes.number * capacity)
        seated_ED = self._seat(x_TD, seat_N, sizes.number * capacity).view(sizes.number, capacity, width)
        hidden = F.gelu(seated_ED @ self.gate, approximate="tanh") * (seated_ED @ self.up)
        made_SD = (hidden @ self.down).flatten(0, 1)
        taken_ND = made_SD[seat_N.clamp(max=len(made_SD) - 1)]
        weight_N = (gates_TK.flatten() * kept_N).to(x.dtype)
        self._balance = self._load_balance(probabilities_TE, one_hot_NE) if self.training else None
        return (taken_ND * weight_N[:, None]).view(tokens, sizes.top_k, width).sum(1).view(x.shape)

    def _seat(self, x_TD: Tensor, seat_N: Tensor, seats: int) -> Tensor:
        """Rows of x in their seats; empty seats are zero. Gathering keeps the backward deterministic."""
        token_N = torch.arange(len(seat_N), device=x_TD.device) // self.sizes.top_k
        token_S = torch.full((seats + 1,), len(x_TD), device=x_TD.device).scatter(0, seat_N, token_N)[:seats]
        return torch.cat([x_TD, x_TD.new_zeros(1, x_TD.shape[1])])[token_S]

    def _load_balance(self, probabilities_TE: Tensor, one_hot_NE: Tensor) -> Tensor:
        """E * sum_e f_e P_e: 1 when tokens and probability are spread evenly, E when all go to one expert."""
        share_E = one_hot_NE.float().mean(0)
        return self.sizes.number * (share_E * probabilities_TE.mean(0)).sum()

    def take_balance(self) -> Tensor | None:
        """The load-balancing loss of the last training forward, once; None after evaluation."""
        balance, self._balance = self._balance, None
        return balance


def take_balance(model: nn.Module) -> Tensor | None:
    """Mean load-balancing loss over all mixtures in `model`; None where there is none to take."""
    losses = [part.take_balance() for part in model.modules() if isinstance(part, MixtureOfExperts)]
    taken = [loss for loss in losses if loss is not None]
    return torch.stack(taken).mean() if taken else None
