"""Hyper-Connections: n residual streams with learned read, write and mix around every attention and feed-forward.

Zhu et al., *Hyper-Connections* (ICLR 2025, arXiv 2409.19606), the baseline that found AltUp slightly worse than dense.
For the branch T of index k, with streams H (n, ..., D):

    h = sum_i Am_i H_i;    H_j <- sum_i Ar_ij H_i + B_j T(h)

Static: Am = e_(k mod n), Ar = I, B = 1 at the start (equation 14), which is the pre-norm residual network. Dynamic adds
s tanh(LayerNorm(H_i) W) to each, W starting at 0 and s at .01. Names: N streams, D width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from naslab.kernels import altup
from naslab.search_spaces.altup.stack import Collapse, collapsed, expanded, mixed
from naslab.search_spaces.common.modules.gated_transformer import Block, Branch, Context

SCALE = 0.01


class HyperConnections(nn.Module):
    """`blocks`, their residual connections replaced; (B, L, D) replicated at the start and collapsed at the end."""

    def __init__(
        self, blocks: Iterable[Block], num_streams: int, width: int, dynamic: bool, collapse: Collapse = "mean"
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.num_streams, self.collapse = num_streams, collapse
        self.connections = nn.ModuleList(
            HyperConnection(num_streams, width, index, dynamic) for index in range(len(self._branches()))
        )

    def _branches(self) -> list[Branch]:
        return [branch for block in self.blocks if isinstance(block, Block) for branch in block.branches]

    def forward(self, x_BLD: Tensor, context: Context) -> Tensor:
        """(B, L, D) -> (B, L, D), or (B, L, N*D) concatenated."""
        streams = expanded(x_BLD, self.num_streams, "replicate")
        for connection, branch in zip(self.connections, self._branches(), strict=True):
            streams = connection(streams, branch, context)
        return collapsed(streams, self.collapse)


class HyperConnection(nn.Module):
    """One branch's connections."""

    def __init__(self, num_streams: int, width: int, index: int, dynamic: bool) -> None:
        super().__init__()
        read = torch.zeros(num_streams)
        read[index % num_streams] = 1
        self.read, self.mix = nn.Parameter(read), nn.Parameter(torch.eye(num_streams))
        self.write = nn.Parameter(torch.ones(num_streams))
        self.dynamic = dynamic
        if dynamic:
            self.norm = nn.LayerNorm(width)
            self.weight = nn.Parameter(torch.zeros(num_streams + 2, width))
            self.scale, self.write_scale = nn.Parameter(torch.tensor(SCALE)), nn.Parameter(torch.tensor(SCALE))

    def forward(self, streams: Tensor, branch: Branch, context: Context) -> Tensor:
        """Streams (N, B, L, D) after the branch."""
        read, mix, write = self._coefficients(streams)
        added = branch(mixed(streams, read), context)
        # The kernel's g (y - x_hat_0) is g times what the branch adds when y is that on top of x_hat_0.
        transposed = mix.mT
        return altup(streams, mixed(streams, transposed[..., 0, :]) + added, transposed, write, 0)

    def _coefficients(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Am (N), Ar (N, N) and B (N), or (B, L, ...) of every token."""
        if not self.dynamic:
            return self.read, self.mix, self.write
        raw = torch.tanh(nn.functional.linear(self.norm(streams), self.weight))  # (N, B, L, N + 2), row i of stream i
        raw = raw.movedim(0, -2)
        read = self.read + self.scale * raw[..., 0]
        mix = self.mix + self.scale * raw[..., 1:-1]
        return read, mix, self.write + self.write_scale * raw[..., -1]
