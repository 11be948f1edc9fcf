"""transformers' BERT for masked words, with the plan of what is masked while it trains.

Names: B texts, L tokens, M masked tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import BertForMaskedLM

from naslab.search_spaces.common.objectives.fates import Fates
from naslab.search_spaces.common.objectives.hidden_places import at_places
from naslab.search_spaces.common.objectives.masked_units import Budget
from naslab.search_spaces.common.objectives.units import Unit
from naslab.search_spaces.common.objectives.vocabulary_loss import vocabulary_loss
from naslab.search_spaces.data.text import WordsBy


@dataclass(frozen=True)
class Plan:
    """Which units of which words are masked, and what becomes of them."""

    unit: Unit
    segmenter: WordsBy
    longest: int
    budget: Budget
    fates: Fates


class WholeWordModel(nn.Module):
    """A masked language model. `bert` is transformers' own, so that `bert.save_pretrained` exports it."""

    def __init__(self, bert: BertForMaskedLM, plan: Plan) -> None:
        super().__init__()
        self.bert, self.plan = bert, plan

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Logits (B, L, V) of every token of texts without padding."""
        logits: Tensor = self.bert(input_ids=ids_BL).logits
        return logits

    def encode(self, ids_BL: Tensor, pad: int | None = None) -> Tensor:
        """States (B, L, D); padding is not attended to."""
        mask = None if pad is None else ids_BL.ne(pad).long()
        states: Tensor = self.bert.bert(input_ids=ids_BL, attention_mask=mask).last_hidden_state
        return states

    def loss(self, ids_BL: Tensor, places_BM: Tensor, labels_BM: Tensor, weight_B: Tensor) -> Tensor:
        """Mean over texts of the weighted nats of their masked tokens; the head sees no others.

        Args:
            places_BM: where the masked tokens stand; labels are IGNORED where a text has fewer.
            weight_B: of each masked token of a text.
        """
        states_BLD = self.encode(ids_BL)
        nats_B: Tensor = vocabulary_loss(self.bert.cls(at_places(states_BLD, places_BM)), labels_BM).sum(1)
        return (nats_B * weight_B).mean()
