"""The head that BERT and RoBERTa are fine-tuned with: classes of a text from the state of its class token."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig


def class_head(config: PretrainedConfig, classes: int, drop_states: bool) -> nn.Sequential:
    """A layer with tanh, dropout and a layer of classes, new: states (B, D) to logits (B, classes).

    Args:
        config: of the encoder, which says the width, the dropout and the deviation of new weights.
        drop_states: dropout before the first layer, too, as RoBERTa's head has it; BERT's pooler has none.
    """
    width, dropout = config.hidden_size, getattr(config, "hidden_dropout_prob", 0.1)
    dense, out = nn.Linear(width, width), nn.Linear(width, classes)
    for layer in (dense, out):
        nn.init.normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))
        nn.init.zeros_(layer.bias)
    first = [nn.Dropout(dropout)] if drop_states else []
    return nn.Sequential(*first, dense, nn.Tanh(), nn.Dropout(dropout), out)
