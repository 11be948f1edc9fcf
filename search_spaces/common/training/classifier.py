"""A classifier around a pre-trained transformer, and how the rates of its layers fall in fine-tuning."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.modules.vit import EPSILON, Pool, TokenEncoder
from naslab.search_spaces.common.training.finetune import FinetuneOptions, Tunable
from naslab.search_spaces.common.training.optimisers import LayerDecay, adamw, scaled_rate


class Classifier(Tunable):
    """A copy of the encoder and a linear layer on its pooled tokens: samples to logits (B, classes).

    Pooling the patches, a norm of its own comes after the mean, as `fc_norm` in MAE's code; the encoder's is not used.
    """

    def __init__(self, model: TokenEncoder, pool: Pool, num_classes: int) -> None:
        super().__init__()
        self.model, self.pool = copy.deepcopy(model), pool
        self.fc_norm = nn.LayerNorm(model.width, eps=EPSILON) if pool == "mean" else None
        self.head = nn.Linear(model.width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def features(self, samples: Tensor) -> Tensor:
        """What the head sees, (B, D)."""
        if self.fc_norm is None:
            return self.model.pooled(samples, self.pool)
        tokens: Tensor = self.fc_norm(self.model.encode(samples)[:, self.model.leading :].mean(1))
        return tokens

    def forward(self, samples: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.features(samples))
        return logits

    def optimiser(self, options: FinetuneOptions, layer_decay: float) -> torch.optim.Optimizer:
        """AdamW over the encoder and the head; what encodes nothing, such as a decoder, is left out."""
        return adamw(
            self.named_parameters(),
            scaled_rate(options.learning_rate, options.batch_size),
            options.weight_decay,
            decays=decays_in_finetuning,
            layers=LayerDecay(layer_decay, self._last, self._layer),
        )

    @property
    def _last(self) -> int:
        return len(self.model.blocks) + 1

    def _layer(self, name: str) -> int | None:
        """0 for the embedding, 1 to depth for the blocks, the last for what follows; None for what encodes nothing."""
        if found := re.match(r"model\.blocks\.(\d+)\.", name):
            return int(found[1]) + 1
        if name.startswith(tuple(f"model.{part}" for part in self.model.embedding)):
            return 0
        after = ("head.", "model.norm.") if self.fc_norm is None else ("head.", "fc_norm.")
        return self._last if name.startswith(after) else None


def decays_in_finetuning(name: str, parameter: nn.Parameter) -> bool:
    """Matrices alone: the class token and positions are exempt (`no_weight_decay` in MAE's code)."""
    return parameter.ndim > 1 and not name.endswith("_places")
