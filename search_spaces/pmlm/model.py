"""BERT with conventional and pseudo masks in one pass (UniLMv2): stock `BertForMaskedLM` under a block mask.

The text's [MASK] tokens are predicted all at once (autoencoding, AE); a pseudo mask behind it predicts its token from
what comes before its step (partially autoregressive, PAR). Names: B texts, L tokens, M slots, D width, V words.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BertForMaskedLM

from naslab.errors import InputError
from naslab.search_spaces.common.modules.masked_lm import BertSizes, fresh_masked_lm, load_masked_lm
from naslab.search_spaces.common.modules.relative_bias import BiasSizes, RelativeBias
from naslab.search_spaces.common.objectives.hidden_places import at_places
from naslab.search_spaces.common.objectives.masked_blocks import Masked, Masking, Slots, mask
from naslab.search_spaces.common.objectives.masked_words import labelled_loss
from naslab.search_spaces.data.text import IGNORED, SpecialIds
from naslab.search_spaces.pmlm.attention import NAME, step_codes, visible

Objective = Literal["ae", "par", "ae_par", "ar", "ae_ar"]


@dataclass(frozen=True)
class Plan:
    """What a model is made of and how it is trained.

    Attributes:
        body: sizes, or the name of a pre-trained BERT.
        autoencoding: whether the [MASK] tokens of the text are predicted.
        pseudo_weight: of the pseudo masks' loss beside that of the text's; 0: there are no slots.
    """

    body: BertSizes | str
    masking: Masking = field(default_factory=Masking)
    autoencoding: bool = True
    pseudo_weight: float = 1.0
    bias: BiasSizes | None = None
    special: SpecialIds = field(default_factory=SpecialIds)


class PseudoMaskedLM(nn.Module):
    """UniLMv2's language model. `lm` is the stock BertForMaskedLM with all weights but those of `relative_bias`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        if isinstance(plan.body, BertSizes):
            self.lm = fresh_masked_lm(plan.body, plan.special.pad, NAME)
            deviation = float(self.lm.config.initializer_range)
        else:
            self.lm = load_masked_lm(plan.body, where="space.options.text_model")
            self.lm.set_attn_implementation(NAME)
            deviation = 0.0  # keeps the pre-trained model what it is
        self.relative_bias: RelativeBias | None = None
        if plan.bias is not None:
            self.relative_bias = RelativeBias(self.lm.config.num_attention_heads, plan.bias, deviation)

    def forward(self, ids: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The `loss` of texts (B, L) that are masked by noise (B, L, NOISE), and its parts `ae` and `par`."""
        plan = self.plan
        return self.losses(mask(ids, noise, plan.masking, plan.special, self.lm.config.vocab_size))

    def losses(self, masked: Masked) -> dict[str, Tensor]:
        """Mean cross-entropy over the masked tokens: at [MASK] `ae`, at the pseudo masks `par`, and their sum."""
        text, pseudo = self.predictions(masked)
        slots, losses = masked.slots, dict[str, Tensor]()
        labels_BM = slots.originals_BM.masked_fill(slots.steps_BM == 0, IGNORED)
        if text is not None:
            losses["ae"] = labelled_loss(text, labels_BM)
        if pseudo is not None:
            losses["par"] = labelled_loss(pseudo, labels_BM)
        if text is None:
            return {"loss": losses["par"], **losses}
        return {"loss": losses["ae"] + self.plan.pseudo_weight * losses.get("par", 0.0), **losses}

    def predictions(self, masked: Masked) -> tuple[Tensor | None, Tensor | None]:
        """Logits (B, M, V) at the [MASK] tokens and at the pseudo masks, of whichever the plan trains."""
        plan, slots = self.plan, masked.slots
        text_BLD, pseudo_BMD = self.states(masked.ids_BL, slots if plan.pseudo_weight else None)
        text = self.logits(at_places(text_BLD, slots.places_BM)) if plan.autoencoding else None
        return text, None if pseudo_BMD is None else self.logits(pseudo_BMD)

    def states(
        self, ids_BL: Tensor, slots: Slots | None = None, pseudo_BM: Tensor | None = None, slot_type: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """States of the text (B, L, D), and of the pseudo masks (B, M, D) where there are slots.

        Args:
            slots: their places may lie beyond the text, as those of a target do.
            pseudo_BM: tokens that stand as pseudo masks; None: [MASK], as in the authors' code.
            slot_type: token type of what stands in the slots; the text's is 0.
        """
        length = ids_BL.shape[1]
        places = torch.arange(length, device=ids_BL.device)[None]
        real_BL = ids_BL != self.plan.special.pad
        text_mask = self._biased(real_BL[:, None, None], places, places)
        if slots is None:
            return self._body(ids_BL, places.expand_as(ids_BL), torch.zeros_like(ids_BL), None, text_mask), None
        if pseudo_BM is None:
            pseudo_BM = torch.full_like(slots.originals_BM, self.plan.special.mask)
        slot_places = [slots.places_BM, slots.places_BM]
        whole_places = torch.cat([places.expand_as(ids_BL), *slot_places], 1)
        codes = step_codes(real_BL, slots.steps_BM)
        seen = visible(codes.queries_BT[:, length:], codes.keys_BT)[:, None]
        mask = self._biased(seen, whole_places[:, length:], whole_places)
        whole = torch.cat([ids_BL, slots.originals_BM, pseudo_BM], 1)
        types = torch.zeros_like(whole)
        types[:, length:] = slot_type
        states = self._body(whole, whole_places, types, mask, text_mask)
        return states[:, :length], states[:, -pseudo_BM.shape[1] :]

    def logits(self, states: Tensor) -> Tensor:
        """Scores of all words (..., V)."""
        scores: Tensor = self.lm.cls(states)
        return scores

    def _body(self, ids: Tensor, places: Tensor, types: Tensor, mask: Tensor | None, text_mask: Tensor) -> Tensor:
        found: Any = self.lm.bert(
            input_ids=ids, position_ids=places, token_type_ids=types, attention_mask=mask, text_mask=text_mask
        )
        states: Tensor = found.last_hidden_state
        return states

    def _biased(self, seen: Tensor, query_places: Tensor, key_places: Tensor) -> Tensor:
        """The mask itself, or the bias where it is True and minus infinity elsewhere."""
        if self.relative_bias is None:
            return seen
        bias: Tensor = self.relative_bias(query_places, key_places)
        return bias.masked_fill(~seen, -torch.inf)


def to_hugging_face(model: PseudoMaskedLM) -> BertForMaskedLM:
    """A stock BertForMaskedLM with the weights of `model`.

    Raises:
        InputError: the model has a relative bias, which that class has not.
    """
    if model.relative_bias is not None:
        raise InputError("BertForMaskedLM has no relative bias; only models with relative_bias=false export")
    peer = copy.deepcopy(model.lm)
    peer.set_attn_implementation("sdpa")
    return peer
