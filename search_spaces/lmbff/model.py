"""A masked language model that classifies: by the words at a mask, or by a new head on the class token.

Names: B texts, L tokens, D width, V words of the vocabulary, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.modules.language_models import words_head
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
                nn.init.normal_(layer.weight, std=config.initializer_range)
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
            return self.word_logits(ids, segments, at).gather(1, words)
        logits: Tensor = self.classifier(self.states(ids, segments)[torch.arange(len(ids), device=ids.device), at])
        return logits

    def states(self, ids: Tensor, segments: Tensor) -> Tensor:
        """Last states (B, L, D)."""
        return self.language_model.base_model(**self._inputs(ids, segments))[0]  # type: ignore[no-any-return]

    def word_logits(self, ids: Tensor, segments: Tensor, at: Tensor) -> Tensor:
        """Logits of all words at one place of each text, (B, V)."""
        rows = torch.arange(len(ids), device=ids.device)
        head = words_head(self.language_model)
        if head is None:
            return self.language_model(**self._inputs(ids, segments)).logits[rows, at]  # type: ignore[no-any-return]
        return head(self.states(ids, segments)[rows, at])  # type: ignore[no-any-return]

    def _inputs(self, ids: Tensor, segments: Tensor) -> dict[str, Tensor]:
        config = self.language_model.config
        kept = ids != config.pad_token_id
        # In four dimensions: transformers asks a mask of two whether it hides anything, which waits for the device.
        inputs = {"input_ids": ids, "attention_mask": kept[:, None, None].expand(-1, 1, ids.shape[1], -1)}
        if (types := getattr(config, "type_vocab_size", 1)) > 1:
            inputs["token_type_ids"] = segments.clamp(max=types - 1)
        return inputs

    def remember(self, split: int, words: tuple[int, ...], template: str) -> None:
        """Keep what was found for a split."""
        self.split.fill_(split)
        self.words.copy_(torch.tensor(words))
        data = template.encode()
        self.prompt.zero_()
        self.prompt[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)

    def save_pretrained(self, folder: Path) -> None:
        """Write the language model as transformers loads it."""
        self.language_model.save_pretrained(folder)
