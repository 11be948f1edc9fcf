"""Average pooling behind merging blocks: the mean over the image's patches, not over the tokens left of them."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from naslab.errors import InputError
from naslab.search_spaces.common.modules.tokens.blocks import State


def weigh_pooling(model: VisionTransformer) -> None:
    """Let an average-pooled model weigh merged tokens, in place.

    Raises:
        InputError: a model of its own class, or one that pools by average and maximum together.
    """
    if type(model) is not VisionTransformer:
        raise InputError(
            f"sparsify: {type(model).__name__} pools in its own way; only a plain VisionTransformer merges"
        )
    if model.global_pool != "avg":
        raise InputError(f"sparsify: merged tokens cannot be pooled by {model.global_pool!r}; use token, avg or max")
    model.__class__ = PatchMeanTransformer


class PatchMeanTransformer(VisionTransformer):
    """A vision transformer whose blocks merge: its average counts a token once for each patch that it stands for.

    Bolya et al. 2023 (tome/patch/mae.py). `forward_features` gives the tokens as they are.
    """

    def forward_features(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Tokens (B, N, D) after the last norm."""
        return self._merged(x)[0]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Logits of images."""
        tokens_BND, sizes_BN = self._merged(x)
        if sizes_BN is not None:
            tokens_BND = weighted_tokens(
                tokens_BND, sizes_BN, 0 if self.pool_include_prefix else self.num_prefix_tokens
            )
        logits: Tensor = self.forward_head(tokens_BND)
        return logits

    def _merged(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        state: State = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(images))))
        for block in self.blocks:
            state = checkpoint(block, state, use_reentrant=False) if self.grad_checkpointing else block(state)
        tokens_BND, sizes_BN = state if isinstance(state, tuple) else (state, None)
        return self.norm(tokens_BND), sizes_BN


def weighted_tokens(tokens_BND: Tensor, sizes_BN: Tensor, prefix: int = 0) -> Tensor:
    """Tokens whose plain mean behind the first `prefix` is the mean that their sizes weigh."""
    sizes = sizes_BN[:, prefix:]
    share = sizes * (sizes.shape[1] / sizes.sum(1, keepdim=True))
    return torch.cat([tokens_BND[:, :prefix], tokens_BND[:, prefix:] * share[..., None].to(tokens_BND.dtype)], 1)
