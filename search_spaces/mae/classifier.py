"""A classifier around a masked autoencoder's encoder, and how the rates of its layers fall in fine-tuning."""

from __future__ import annotations

import copy
import re
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.training import LayerDecay, adamw, scaled_rate
from naslab.search_spaces.common.training.finetune import FinetuneOptions
from naslab.search_spaces.mae.model import Autoencoder

Pool: TypeAlias = Literal["class", "mean"]


class Classifier(nn.Module):
    """A copy of the encoder and a linear layer on its pooled tokens: images or clips to logits (B, classes)."""

    def __init__(self, model: Autoencoder, pool: Pool, num_classes: int) -> None:
        super().__init__()
        self.model, self.pool = copy.deepcopy(model), pool
        self.head = nn.Linear(model.design.encoder.width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(pooled(self.model, images, self.pool))
        return logits

    def optimiser(self, options: FinetuneOptions, layer_decay: float) -> torch.optim.Optimizer:
        """AdamW over the encoder and the head; the decoder is left out."""
        return adamw(
            self.named_parameters(),
            scaled_rate(options.learning_rate, options.batch_size),
            options.weight_decay,
            decays=weight_decayed,
            layers=LayerDecay(layer_decay, self._last, self._layer),
        )

    @property
    def _last(self) -> int:
        return self.model.design.encoder.depth + 1

    def _layer(self, name: str) -> int | None:
        """0 for the embedding, 1 to depth for the blocks, the last for what follows; None for what encodes nothing."""
        if found := re.match(r"model\.blocks\.(\d+)\.", name):
            return int(found[1]) + 1
        if name.startswith(("model.patch_embed", "model.tube_embed", "model.encoder_places", "model.class_token")):
            return 0
        return self._last if name.startswith(("model.norm.", "head.")) else None


def pooled(model: Autoencoder, images: Tensor, pool: Pool) -> Tensor:
    """Features (B, D) of whole samples: the class token, or the mean of the patches."""
    tokens, leading = model.features(images), 0 if model.class_token is None else 1
    return tokens[:, 0] if pool == "class" else tokens[:, leading:].mean(1)


def weight_decayed(name: str, parameter: nn.Parameter) -> bool:
    """MAE decays matrices and tokens, not biases and norms."""
    return parameter.ndim > 1 or name.endswith("_token")
