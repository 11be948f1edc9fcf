"""A classifier around a masked autoencoder's encoder, and how the rates of its layers fall in fine-tuning."""

from __future__ import annotations

import copy
import re
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.modules.vit import EPSILON
from naslab.search_spaces.common.scores.evaluation import Tunable
from naslab.search_spaces.common.training import LayerDecay, adamw, scaled_rate
from naslab.search_spaces.common.training.finetune import FinetuneOptions
from naslab.search_spaces.mae.model import Autoencoder

Pool: TypeAlias = Literal["class", "mean"]


class Classifier(Tunable):
    """A copy of the encoder and a linear layer on its pooled tokens: images or clips to logits (B, classes).

    Pooling the patches, a norm of its own comes after the mean, as `fc_norm` in MAE's code; the encoder's is not used.
    """

    def __init__(self, model: Autoencoder, pool: Pool, num_classes: int) -> None:
        super().__init__()
        width = model.design.encoder.width
        self.model, self.pool = copy.deepcopy(model), pool
        self.fc_norm = nn.LayerNorm(width, eps=EPSILON) if pool == "mean" else None
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """What the head sees, (B, D)."""
        if self.fc_norm is None:
            return pooled(self.model, images, self.pool)
        tokens: Tensor = self.fc_norm(self.model.encode(images)[:, self.model.leading :].mean(1))
        return tokens

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def optimiser(self, options: FinetuneOptions, layer_decay: float) -> torch.optim.Optimizer:
        """AdamW over the encoder and the head; the decoder is left out."""
        return adamw(
            self.named_parameters(),
            scaled_rate(options.learning_rate, options.batch_size),
            options.weight_decay,
            decays=decays_in_finetuning,
            layers=LayerDecay(layer_decay, self._last, self._layer),
        )

    @property
    def _last(self) -> int:
        return self.model.design.encoder.depth + 1

    def _layer(self, name: str) -> int | None:
        """0 for the embedding, 1 to depth for the blocks, the last for what follows; None for what encodes nothing."""
        if found := re.match(r"model\.blocks\.(\d+)\.", name):
            return int(found[1]) + 1
        if name.startswith(("model.patch_embed", "model.tube_embed", "model.encoder_places", "model.class_")):
            return 0
        after = ("head.", "model.norm.") if self.fc_norm is None else ("head.", "fc_norm.")
        return self._last if name.startswith(after) else None


def pooled(model: Autoencoder, images: Tensor, pool: Pool) -> Tensor:
    """Frozen features (B, D) of whole samples: the class token, or the mean of the patches, both after the norm."""
    tokens = model.features(images)
    return tokens[:, 0] if pool == "class" else tokens[:, model.leading :].mean(1)


def decays_in_pretraining(name: str, parameter: nn.Parameter) -> bool:
    """Matrices, class and mask tokens and positions; not biases and norms (timm's rule in MAE's code)."""
    return parameter.ndim > 1 or name.endswith(("_token", "_places"))


def decays_in_finetuning(name: str, parameter: nn.Parameter) -> bool:
    """Matrices alone: the class token and positions are exempt (`no_weight_decay` in MAE's code)."""
    return parameter.ndim > 1 and not name.endswith("_places")
