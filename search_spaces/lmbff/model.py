"""A masked language model that classifies: by the words at a mask, or by a new head on the class token.

Names: B texts, L tokens, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.modules.language_models import states_at, words_at
from naslab.search_spaces.data.text.templates import Template, parse_template
from naslab.search_spaces.lmbff.chosen import Chosen

UNSET = -1
TEMPLATE_BYTES = 512


class FewShotModel(nn.Module):
    """Logits of classes, (B, C).

    Prompt: those of each class's word at the mask (eq. 1 of the paper), of the language model with its own head and
    nothing new. Head: a new layer of two on the state of the class token, as RoBERTa's classification head has it.

    Buffers hold what training found: the split's seed, the words, the template. They are UNSET, or empty, before it.
    """

    split: Tensor
    words: Tensor
    prompt: Tensor

    def __init__(self, language_model: Any, chosen: Chosen, classes: int) -> None:
        super().__init__()
        self.language_model, self.chosen = language_model, chosen
        config = language_model.config
        width, dropout = config.hidden_size, getattr(config, "hidden_dropout_prob", 0.1)
        self.classifier: nn.Module | None = None
        if chosen.method == "head":
            dense, out = nn.Linear(width, width), nn.Linear(width, classes)
            self.classifier = nn.Sequential(nn.Dropout(dropout), dense, nn.Tanh(), nn.Dropout(dropout), out)
            for layer in (dense, out):
                nn.init.normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))
                nn.init.zeros_(layer.bias)
        self.register_buffer("split", torch.tensor(UNSET))
        self.register_buffer("words", torch.full((classes,), UNSET))
        self.register_buffer("prompt", torch.zeros(TEMPLATE_BYTES, dtype=torch.uint8))

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

    def remember(self, split: int, words: tuple[int, ...], template: Template) -> None:
        """Keep what was found for a split."""
        self.split.fill_(split % 2**63)
        self.words.copy_(torch.tensor(words))
        data = template.source.encode()
        self.prompt.zero_()
        self.prompt[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)

    @property
    def template(self) -> Template | None:
        """The one that training kept."""
        source = bytes(self.prompt.tolist()).rstrip(b"\0").decode()
        return parse_template(source, generated=True) if source else None

    def save_pretrained(self, folder: Path) -> None:
        """Write the language model as transformers loads it."""
        self.language_model.save_pretrained(folder)
