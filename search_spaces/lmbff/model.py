"""A masked language model that classifies: by the words at a mask, or by a new head on the class token.

Names: B texts, L tokens, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.modules.language_models import states_at, words_at
from naslab.search_spaces.data.text.templates import Template, parse_template
from naslab.search_spaces.lmbff.chosen import Chosen

UNSET = -1
TEMPLATE_BYTES = 512


class Kept(NamedTuple):
    """What training found; None before it."""

    split: int | None = None
    words: tuple[int, ...] | None = None
    template: Template | None = None


class FewShotModel(nn.Module):
    """Logits of classes, (B, C).

    Prompt: those of each class's word at the mask (eq. 1 of the paper), of the language model with its own head and
    nothing new. Head: a new layer of two on the state of the class token, as RoBERTa's classification head has it.

    Buffers hold what training found, for the checkpoint: the split's seed, the words, the template. They are UNSET, or
    empty, before it. `kept` is the same on the host, so that no step waits for a device.
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
        self.kept = Kept()
        self.register_load_state_dict_post_hook(_read)  # type: ignore[no-untyped-call]

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

    def remember(self, split: int, words: tuple[int, ...] | None = None, template: Template | None = None) -> None:
        """Keep what was found for a split."""
        self.kept = Kept(split % 2**63, words, template)
        self.split.fill_(split % 2**63)
        if words is not None:
            self.words.copy_(torch.tensor(words))
        data = template.source.encode() if template is not None else b""
        self.prompt.copy_(torch.tensor([*data, *bytes(TEMPLATE_BYTES - len(data))], dtype=torch.uint8))

    def save_pretrained(self, folder: Path) -> None:
        """Write the language model as transformers loads it."""
        self.language_model.save_pretrained(folder)


def _read(model: FewShotModel, _: Any) -> None:
    """After weights were loaded."""
    split, words, source = int(model.split), tuple(model.words.tolist()), bytes(model.prompt.tolist()).rstrip(b"\0")
    template = parse_template(source.decode(), generated=True) if source else None
    model.kept = Kept(split, words if words[0] != UNSET else None, template) if split != UNSET else Kept()
