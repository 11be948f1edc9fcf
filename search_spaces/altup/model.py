"""Language models with any of the compared residual streams: a causal decoder, or an encoder with a decoder.

Names: B batch, L and S tokens, D width of one stream, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from naslab.search_spaces.altup.coefficients import Kind
from naslab.search_spaces.altup.hyper_connections import HyperConnections
from naslab.search_spaces.altup.stack import AltUpStack, LayerInput, Selection, SequenceAltUpLayer
from naslab.search_spaces.common.modules.experts import ExpertSizes, take_balance
from naslab.search_spaces.common.modules.gated_transformer import (
    EPSILON,
    Block,
    BlockSizes,
    Context,
    context,
    linear,
    quieten,
)
from naslab.search_spaces.common.objectives.vocabulary_loss import vocabulary_loss

Method: TypeAlias = Literal["dense", "altup", "recycled", "sequence", "sum", "hyper_connections", "dense_wide"]
Form: TypeAlias = Literal["decoder", "encoder_decoder"]


@dataclass(frozen=True)
class Plan:
    """Everything that decides a model. `width` and `hidden` are those of its layers."""

    form: Form
    method: Method
    vocabulary: int
    layers: int
    width: int
    hidden: int
    head_width: int
    streams: int = 1
    coefficients: Kind = "static"
    selection: Selection = "alternating"
    stride: int = 1
    collapse: Literal["mean", "sum"] = "mean"
    layer_input: LayerInput | None = None
    clip: float | None = None
    experts: ExpertSizes | None = None
    expert_every: int = 2
    balance_weight: float = 0.01

    @property
    def table_width(self) -> int:
        """Width of the embedding table: K streams side by side in AltUp and Sum."""
        return self.width * (self.streams if self.method in ("altup", "sum") else 1)

    @property
    def output_width(self) -> int:
        """Width of what leaves a stack, which the unembedding and the cross-attention read: K streams in AltUp."""
        return self.width * (self.streams if self.method == "altup" else 1)

    def experts_of(self, index: int) -> ExpertSizes | None:
        """The mixture of layer `index`: in every `expert_every`-th layer, the first of them without (Switch)."""
        return self.experts if index % self.expert_every == self.expert_every - 1 else None

    def stride_of(self, index: int, causal: bool) -> int:
        """Sequence-AltUp's stride at layer `index`: not at the ends of a stack, not in a decoder behind an encoder."""
        inner = 0 < index < self.layers - 1 and not (self.form == "encoder_decoder" and causal)
        return self.stride if self.method == "sequence" and inner else 1


class Dense(nn.Sequential):
    """Layers one after the other."""

    def forward(self, x_BLD: Tensor, context: Context) -> Tensor:  # type: ignore[override]
        """(B, L, D) -> (B, L, D)."""
        for layer in self:
            x_BLD = layer(x_BLD, context)
        return x_BLD


def make_stack(plan: Plan, causal: bool, memory_width: int | None = None) -> nn.Module:
    """The layers of an encoder or a decoder: (B, L, table width) -> (B, L, output width)."""
    blocks = [
        Block(BlockSizes(plan.width, plan.head_width, plan.hidden, causal, memory_width, plan.experts_of(index)))
        for index in range(plan.layers)
    ]
    quieten(blocks)
    match plan.method:
        case "altup" | "recycled":
            full = plan.method == "altup"
            return AltUpStack(
                blocks,
                plan.streams,
                plan.selection,
                plan.coefficients,
                width=plan.width,
                expand="split" if full else "replicate",
                collapse="concatenate" if full else plan.collapse,
                layer_input=plan.layer_input,
                clip=plan.clip,
            )
        case "sequence":
            strides = [plan.stride_of(index, causal) for index in range(plan.layers)]
            pairs = zip(blocks, strides, strict=True)
            return Dense(*(SequenceAltUpLayer(block, stride) if stride > 1 else block for block, stride in pairs))
        case "hyper_connections":
            dynamic = plan.coefficients == "per_token"
            return HyperConnections(blocks, plan.streams, plan.width, dynamic, plan.collapse)
    return Dense(*blocks)


class Embedding(nn.Module):
    """Tokens (B, L) to (B, L, D); in AltUp to all streams side by side, in Sum to the sum of K blocks."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.table = nn.Embedding(plan.vocabulary, plan.table_width)
        self.summed = plan.streams if plan.method == "sum" else 1
        nn.init.normal_(self.table.weight, std=self.summed**-0.5)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Look up."""
        x: Tensor = self.table(tokens_BL)
        return x.unflatten(-1, (self.summed, -1)).sum(-2) if self.summed > 1 else x


class Unembedding(nn.Module):
    """Norm and an output table of its own over all that leaves the stack: (B, L, output width) -> (B, L, V)."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(plan.output_width, eps=EPSILON)
        self.table = linear(plan.output_width, plan.vocabulary)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Logits."""
        return self.table(self.norm(x_BLD))  # type: ignore[no-any-return]


class LanguageModel(nn.Module):
    """A causal decoder."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.embedding = Embedding(plan)
        self.stack = make_stack(plan, causal=True)
        self.unembedding = Unembedding(plan)

    def logits(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, V), each position's from the tokens up to it."""
        here = context(tokens.shape[1], self.plan.head_width, tokens.device)
        return self.unembedding(self.stack(self.embedding(tokens), here))  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the targets (B, L) that are not IGNORED; see `loss`."""
        return loss(self, self.logits(tokens), targets)


class EncoderDecoder(nn.Module):
    """An encoder that sees all of its tokens, and a causal decoder that attends to its output; one embedding table."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.embedding = Embedding(plan)
        self.encoder = make_stack(plan, causal=False)
        self.memory_norm = nn.RMSNorm(plan.output_width, eps=EPSILON)
        self.decoder = make_stack(plan, causal=True, memory_width=plan.output_width)
        self.unembedding = Unembedding(plan)

    def logits(self, tokens: Tensor, decoder_tokens: Tensor) -> Tensor:
        """(B, S) and (B, L) -> (B, L, V)."""
        width = self.plan.head_width
        encoded = self.encoder(self.embedding(tokens), context(tokens.shape[1], width, tokens.device))
        here = context(decoder_tokens.shape[1], width, tokens.device, self.memory_norm(encoded))
        return self.unembedding(self.decoder(self.embedding(decoder_tokens), here))  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, decoder_tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the decoder's targets (B, L); see `loss`."""
        return loss(self, self.logits(tokens, decoder_tokens), targets)


def loss(model: LanguageModel | EncoderDecoder, logits_BLV: Tensor, targets_BL: Tensor) -> Tensor:
    """Mean cross-entropy; in training, with experts, plus their load-balancing loss times its weight."""
    value = vocabulary_loss(logits_BLV, targets_BL, "mean")
    balance = take_balance(model)
    return value if balance is None else value + model.plan.balance_weight * balance


def make_model(plan: Plan) -> LanguageModel | EncoderDecoder:
    """The model of a plan."""
    return LanguageModel(plan) if plan.form == "decoder" else EncoderDecoder(plan)
