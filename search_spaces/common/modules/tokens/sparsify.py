"""Put token selection or merging into a timm vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from naslab.errors import InputError
from naslab.search_spaces.common.modules.tokens.blocks import MergingBlock, SelectingBlock, SparseBlock
from naslab.search_spaces.common.modules.tokens.pooling import weigh_pooling
from naslab.search_spaces.common.modules.tokens.schedules import check_keep_rate

Model = TypeVar("Model", bound=VisionTransformer)


def sparsify(
    model: Model,
    keep_rate: float | None = None,
    layers: Sequence[int] = (3, 6, 9),
    fuse: bool = True,
    rule: Literal["evit", "tome"] = "evit",
    r: int | Sequence[int] | None = None,
    proportional: bool = True,
) -> Model:
    """Replace blocks of the model, in place, and return it; its weights and their names stay.

    Args:
        model: a timm VisionTransformer (ViT, DeiT, ...) with plain pre-norm blocks.
        keep_rate: EViT: share of the patches that each of `layers` keeps, above 0 and at most 1.
        layers: EViT: blocks that select, counted from 0.
        fuse: EViT: sum what is dropped into one token, weighted by its attention.
        rule: "evit" selects by the class token's attention, "tome" merges the most similar.
        r: ToMe: tokens to merge, in every block or a number for each (missing ones are 0); see `merge_schedule`.
        proportional: ToMe: merged tokens weigh in attention by their size. Published on for supervised models and in
            training, off for MAE models as they come. It adds a bias to the attention, which flash kernels do not take.

    Raises:
        InputError: the model has no such blocks, or an argument does not fit it.
    """
    blocks = _blocks_of(model)
    prefix = model.num_prefix_tokens
    match rule:
        case "evit":
            if r is not None:
                raise InputError('r: only rule "tome" takes it; rule "evit" takes keep_rate')
            if keep_rate is None:
                raise InputError('keep_rate: rule "evit" needs it, above 0 and at most 1')
            if model.cls_token is None:
                raise InputError('sparsify: the model has no class token to select by; use rule "tome"')
            check_keep_rate(keep_rate)
            for layer in _checked_layers(layers, len(blocks)):
                model.blocks[layer] = SelectingBlock(blocks[layer], keep_rate, fuse, prefix)
        case "tome":
            if keep_rate is not None:
                raise InputError('keep_rate: only rule "evit" takes it; rule "tome" takes r')
            merges, averages = _checked_merges(r, len(blocks)), model.global_pool in ("avg", "avgmax")
            if averages:
                weigh_pooling(model)
            for layer, block in enumerate(blocks):
                last = layer == len(blocks) - 1 and not averages
                model.blocks[layer] = MergingBlock(block, merges[layer], prefix, proportional, last)
        case _:
            raise InputError(f"rule: {rule!r} is unknown; use evit or tome")
    return model


def set_keep_rate(model: nn.Module, keep_rate: float) -> None:
    """Change the rate of all selecting blocks, e.g. to `anneal` it; a compiled model is compiled anew.

    Raises:
        InputError: no rate above 0 and at most 1, or no selecting block in the model.
    """
    check_keep_rate(keep_rate)
    selecting = [module for module in model.modules() if isinstance(module, SelectingBlock)]
    if not selecting:
        raise InputError('set_keep_rate: the model selects no tokens; sparsify(model, keep_rate, rule="evit") first')
    for block in selecting:
        block.keep_rate = keep_rate


def _blocks_of(model: VisionTransformer) -> list[nn.Module]:
    if not isinstance(model, VisionTransformer):
        raise InputError(f"sparsify: {type(model).__name__} is not a timm VisionTransformer")
    blocks = list(model.blocks)
    if any(isinstance(block, SparseBlock) for block in blocks):
        raise InputError("sparsify: the model is sparsified already; start from a fresh one")
    for layer, block in enumerate(blocks):
        # By name, for the class has moved between timm's modules.
        if type(block) is not Block or type(block.attn).__name__ != "Attention":
            raise InputError(
                f"sparsify: block {layer} is a {type(block).__name__}, only timm's plain Block can drop tokens"
            )
    return blocks


def _checked_layers(layers: Sequence[int], depth: int) -> list[int]:
    chosen = list(layers)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= layer < depth for layer in chosen):
        raise InputError(f"layers: {chosen} are not different blocks of 0 to {depth - 1}")
    return chosen


def _checked_merges(r: int | Sequence[int] | None, depth: int) -> list[int]:
    if r is None:
        raise InputError('r: rule "tome" needs it, the tokens to merge in a block')
    merges = [r] * depth if isinstance(r, int) else list(r)
    if len(merges) > depth or any(n < 0 for n in merges):
        raise InputError(f"r: {r} is not a number of tokens, 0 or more, or at most {depth} of them")
    return merges + [0] * (depth - len(merges))
