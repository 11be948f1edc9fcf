"""Sequence models that are trained on their own predictions: an encoder with a decoder, or a decoder alone.

A training step of `passes` decoder passes. The first reads gold tokens and is the expert; each further one reads gold
tokens of which the recipe has replaced some by predictions of the pass before. Loss, of the last pass:

    mean over target tokens of  -log q(gold) + imitation x KL(p || q)

with p the expert's distribution, without gradient, and q that of the last pass. In evaluation mode there is the first
pass alone, and its loss. Lin, Jwalapuram, Joty 2023 (DySI); passes after the second as Duckworth et al. 2019.

Names: B pairs, S source tokens, L target tokens, V vocabulary, M mixes (passes after the first).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from naslab.kernels import distill_kl
from naslab.search_spaces.common.modules.generation import generated
from naslab.search_spaces.common.objectives.float32 import in_float32
from naslab.search_spaces.common.objectives.scheduled_sampling import (
    BY_STEP,
    Schedule,
    chosen,
    dynamic_counts,
    gold_share,
    sampled,
)
from naslab.search_spaces.common.objectives.vocabulary_loss import vocabulary_loss
from naslab.search_spaces.data.text import IGNORED
from naslab.search_spaces.data.text.pair_tokenizers import Ids

HIDDEN = -1e4
MIXES = 3
"""Passes after the first, at most."""


@dataclass(frozen=True)
class Recipe:
    """How the decoder is trained; what does not apply has the value that does nothing."""

    schedule: Schedule
    strength: float = 0.0
    """The largest share of tokens that is replaced."""
    imitation: float = 0.0
    """Weight of the imitation loss."""
    passes: int = 1
    candidates: Literal["argmax", "sample"] = "argmax"
    """What stands in for a gold token: the most probable one, or one drawn."""
    half_life: float = 0.5
    """Part of the training after which half of the tokens that may be replaced still are gold; of schedules by step."""

    def share(self, step: int, steps: int) -> float:
        """The share of tokens that a schedule by step replaces; 0 where none counts steps."""
        if self.schedule not in (*BY_STEP, "constant"):
            return 0.0
        return self.strength * (1 - gold_share(self.schedule, step, self.half_life * steps))


class SequenceModel(nn.Module, ABC):
    """A network of transformers that writes targets for sources, and the recipe by which it learns to."""

    def __init__(self, network: Any, recipe: Recipe, ids: Ids) -> None:
        super().__init__()
        self.network, self.recipe, self.ids = network, recipe, ids

    @abstractmethod
    def read(self, source_BS: Tensor) -> Any:
        """What `write` needs of the sources, worked out once for all passes."""

    @abstractmethod
    def write(self, sources: Any, tokens_BL: Tensor) -> Tensor:
        """Logits (B, L, V) of the token after each of `tokens_BL`, given those up to it."""

    @abstractmethod
    def generate(self, source_BS: Tensor, prefix_BP: Tensor, most: int, beams: int = 1) -> Tensor:
        """At most `most` tokens after begin token and prefix, greedily or by beams, padded behind the end.

        With transformers' `generate`, whatever the network's own generation settings say.
        """

    def forward(
        self,
        source: Tensor,
        decoder_tokens: Tensor,
        targets: Tensor,
        weight: Tensor,
        share: Tensor,
        draw: Tensor,
        noise: Tensor,
    ) -> dict[str, Tensor]:
        """The loss first, then its parts, the expert's `accuracy` and the share of tokens `replaced`, detached.

        Args:
            source: (B, S), padded.
            decoder_tokens: (B, L), the begin token and the target without its end.
            targets: (B, L), IGNORED where there is none.
            weight: (B, L) of each target in the mean over the batch; see `Pairs.batch`.
            share: (B,) of tokens to replace, for schedules by step.
            draw: (B, M, 2) uniform in [0, 1): of each mix how strong it is, and how counts are rounded.
            noise: (B, L, M, 2) uniform in [0, 1): of each mix which tokens it replaces, and by which.
        """
        sources = self.read(source)
        if not self.training or self.recipe.passes == 1:
            return {"loss": _weighted(vocabulary_loss(self.write(sources, decoder_tokens), targets), weight)}
        logits, expert, replaced = self._passes(sources, decoder_tokens, targets, share, draw, noise)
        nats = vocabulary_loss(logits, targets, read_again=self.recipe.imitation > 0)
        parts = {"nll": _weighted(nats, weight)}
        loss = parts["nll"]
        if self.recipe.imitation:
            parts["imitation"] = _weighted(_divergence(logits, expert), weight)
            loss = loss + self.recipe.imitation * parts["imitation"]
        counted = targets != IGNORED
        facts = {"accuracy": _accuracy(expert, targets).mean(), "replaced": replaced.sum() / counted.sum()}
        return {"loss": loss, **{name: value.detach() for name, value in {**parts, **facts}.items()}}

    def _passes(
        self, sources: Any, gold_BL: Tensor, targets: Tensor, share: Tensor, draw: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the last pass, which alone has gradients, and of the expert; where the last mix has no gold token.

        Mix k leaves the first k tokens as mix k - 1 had them: they are what a pass token by token would have written.
        """
        with torch.no_grad():
            expert = latest = self.write(sources, gold_BL)
            mixed_BL = gold_BL
            for mix in range(self.recipe.passes - 1):
                if mix:
                    latest = self.write(sources, mixed_BL)
                own_BL = self._replaced(latest, targets, share, draw[:, mix], noise[:, :, mix, 0])
                predicted_BL = self._candidates(latest, noise[:, :, mix, 1]).roll(1, 1)
                fresh_BL = torch.where(own_BL, predicted_BL, gold_BL)
                mixed_BL = torch.cat([mixed_BL[:, : mix + 1], fresh_BL[:, mix + 1 :]], 1)
        if not torch.compiler.is_compiling():
            torch.clear_autocast_cache()  # rounded weights made without gradients would be taken for the last pass
        return self.write(sources, mixed_BL), expert, own_BL

    def _replaced(self, logits: Tensor, targets: Tensor, share_B: Tensor, draw: Tensor, noise_BL: Tensor) -> Tensor:
        """Which decoder tokens (B, L) are replaced: never the begin token, nothing behind the end."""
        replaceable = targets != IGNORED
        replaceable = torch.cat([torch.zeros_like(replaceable[:, :1]), replaceable[:, 1:]], 1)
        if self.recipe.schedule != "dynamic":
            return replaceable & (noise_BL < share_B[:, None])
        length, accuracy = replaceable.sum(1), _accuracy(logits, targets)
        count = dynamic_counts(accuracy, length, draw[:, 0], draw[:, 1], self.recipe.strength)
        return chosen(replaceable, noise_BL, count)

    def _candidates(self, logits_BLV: Tensor, noise_BL: Tensor) -> Tensor:
        return logits_BLV.argmax(-1) if self.recipe.candidates == "argmax" else sampled(logits_BLV, noise_BL)


class EncoderDecoder(SequenceModel):
    """Any AutoModelForSeq2SeqLM. Sources are padded behind."""

    def read(self, source_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's states (B, S, D), and what hides padding (B, 1, 1, S)."""
        mask = hiding(source_BS.ne(self.ids.pad)[:, None, None], self.network.dtype)
        return self.network.get_encoder()(input_ids=source_BS, attention_mask=mask)[0], mask

    def write(self, sources: tuple[Tensor, Tensor], tokens_BL: Tensor) -> Tensor:
        """See SequenceModel."""
        states, mask = sources
        outputs = self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=tokens_BL,
            use_cache=False,
        )
        logits: Tensor = outputs.logits
        return logits

    def generate(self, source_BS: Tensor, prefix_BP: Tensor, most: int, beams: int = 1) -> Tensor:
        """See SequenceModel."""
        begin = prefix_BP.new_full((len(prefix_BP), 1), self.ids.begin)
        given = torch.cat([begin, prefix_BP], 1)
        mask = source_BS.ne(self.ids.pad).long()
        written = generated(
            self.network, self.ids, most, beams, input_ids=source_BS, attention_mask=mask, decoder_input_ids=given
        )
        return written[:, given.shape[1] :]


class Decoder(SequenceModel):
    """Any AutoModelForCausalLM, which reads the source before the target. Sources are padded in front."""

    def read(self, source_BS: Tensor) -> Tensor:
        """The sources themselves."""
        return source_BS

    def write(self, sources: Tensor, tokens_BL: Tensor) -> Tensor:
        """See SequenceModel."""
        seen_BN = self._seen(sources, tokens_BL)
        number = seen_BN.shape[1]
        causal = torch.ones(number, number, dtype=torch.bool, device=seen_BN.device).tril()
        outputs = self.network(
            input_ids=torch.cat([sources, tokens_BL], 1),
            attention_mask=hiding(causal & seen_BN[:, None, None], self.network.dtype),
            position_ids=(seen_BN.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=tokens_BL.shape[1],
        )
        logits: Tensor = outputs.logits
        return logits

    def generate(self, source_BS: Tensor, prefix_BP: Tensor, most: int, beams: int = 1) -> Tensor:
        """See SequenceModel."""
        begin = prefix_BP.new_full((len(prefix_BP), 1), self.ids.begin)
        given = torch.cat([source_BS, begin, prefix_BP], 1)
        seen = self._seen(source_BS, given[:, source_BS.shape[1] :]).long()
        written = generated(self.network, self.ids, most, beams, input_ids=given, attention_mask=seen)
        return written[:, given.shape[1] :]

    def _seen(self, source_BS: Tensor, tokens_BL: Tensor) -> Tensor:
        """Which tokens (B, S + L) are seen: not padding in front; what stands behind an end nothing before it sees."""
        return torch.cat([source_BS.ne(self.ids.pad), torch.ones_like(tokens_BL, dtype=torch.bool)], 1)


def hiding(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the logits of attention. transformers takes a mask of four dimensions as it is.

    Of one of two dimensions it asks on the host whether all is seen, which waits for a GPU. The number is finite in
    float16 too, so that padding which sees nothing gives no NaN. It has the dtype of the queries: of float64 queries
    PyTorch's attention reads a float32 mask wrongly on a processor without AVX-512.
    """
    return torch.where(seen, 0.0, HIDDEN).to(dtype)


@in_float32
def _divergence(logits_BLV: Tensor, expert_BLV: Tensor) -> Tensor:
    return distill_kl(logits_BLV, expert_BLV)


def _weighted(values_BL: Tensor, weight_BL: Tensor) -> Tensor:
    return (values_BL * weight_BL).sum() / len(values_BL)


def _accuracy(logits_BLV: Tensor, targets_BL: Tensor) -> Tensor:
    """Share (B,) of a sequence's targets that are the most probable token."""
    counted = targets_BL != IGNORED
    right = (logits_BLV.argmax(-1) == targets_BL) & counted
    return right.sum(1) / counted.sum(1).clamp(min=1)
