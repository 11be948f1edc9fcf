"""A masked language model that classifies: by the words at a mask, or by a new head on the class token.

Names: B texts, L tokens, C classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.modules.class_head import class_head
from naslab.search_spaces.common.modules.language_models import states_at, words_at
from naslab.search_spaces.lmbff.chosen import Chosen


class Kept(NamedTuple):
    """What training found: the split's seed, the numbers of the label words, the template. None before it.

    And the policy that the adaptation followed, as plain values; None without one.
    """

    split: int | None = None
    words: tuple[int, ...] | None = None
    template: str | None = None
    adapted_by: dict[str, Any] | None = None


class FewShotModel(nn.Module):
    """Logits of classes, (B, C).

    Prompt: those of each class's word at the mask (eq. 1 of the paper), of the language model with its own head and
    nothing new. Head: a new layer of two on the state of the class token, as RoBERTa's classification head has it.
    `kept` goes into checkpoints.
    """

    def __init__(self, language_model: Any, chosen: Chosen, classes: int) -> None:
        super().__init__()
        self.language_model, self.chosen, self.kept = language_model, chosen, Kept()
        headed = chosen.method == "head"
        self.classifier = class_head(language_model.config, classes, drop_states=True) if headed else None

    def forward(self, ids: Tensor, segments: Tensor, at: Tensor, words: Tensor) -> Tensor:
        """Logits (B, C).

        Args:
            ids, segments: (B, L), int64; padding is not attended to.
            at: (B,), the place of the mask, or of the class token.
            words: (B, C), the word of each class; a head does not look at them.
        """
        if self.classifier is None:
            return words_at(self.language_model, ids, segments, at).gather(1, words)
        logits: Tensor = self.classifier(states_at(self.language_model, ids, segments, at))
        return logits

    def get_extra_state(self) -> Tensor:
        """`kept` as the bytes of its JSON, so that checkpoints hold tensors alone."""
        return torch.tensor(list(json.dumps(self.kept).encode()), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take `kept` from a checkpoint."""
        split, words, *others = json.loads(bytes(state.tolist()))
        self.kept = Kept(split, None if words is None else tuple(words), *others)

    def save_pretrained(self, folder: Path) -> None:
        """Write the language model as transformers loads it."""
        self.language_model.save_pretrained(folder)
