"""Formulas of attention and of the fused layers around it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from naslab.efficiency.work import GELU, NORMALISATION, Call, Formula, Work, table


def attention_work(pairs: int, masked: int, width: int, value_width: int, backward: bool = False) -> Work:
    """Softmax attention over `pairs` query-key pairs (heads and batch included), of which `masked` are causal zeros.

    Forward: scores and weighted values. Backward as fused kernels do it: scores again, then the gradients of
    weights, values, queries and keys. Pointwise: scale and softmax, 6 a pair; their backward 6 more.
    """
    per_pair = 2 * (3 * width + 2 * value_width) if backward else 2 * (width + value_width)
    return Work(pairs * per_pair, pairs * (12 if backward else 6), masked * per_pair)


def _causal_pairs(queries: int, keys: int) -> int:
    """Pairs that a mask aligned at the first key leaves: query i sees keys 0 to i."""
    seen = min(queries, keys)
    return seen * (seen + 1) // 2 + max(queries - keys, 0) * keys


def _masked_pairs(call: Call, pairs: int) -> int:
    """Pairs that a mask given as a tensor throws away; on meta, where no mask can be read, none."""
    mask = next((m for key in ("attn_mask", "attn_bias") if (m := call.arguments.get(key)) is not None), None)
    if mask is None or mask.is_meta or not mask.numel():
        return 0
    dropped = ~mask if mask.dtype == torch.bool else mask <= torch.finfo(mask.dtype).min
    count = int(dropped.sum())
    return count * pairs // int(mask.numel())  # broadcasting repeats the mask evenly


def _attention(backward: bool = False) -> Formula:
    """query (B, H, L, D), key (B, H', S, D), value (B, H', S, E)."""

    def formula(call: Call) -> Work:
        (batch, heads, queries, width), value = call.shape("query"), call.shape("value")
        keys = value[-2]
        pairs = batch * heads * queries * keys
        if call.arguments.get("is_causal"):
            masked = batch * heads * (queries * keys - _causal_pairs(queries, keys))
        else:
            masked = _masked_pairs(call, pairs)
        return attention_work(pairs, masked, width, value[-1], backward)

    return formula


def _packed_attention(backward: bool = False) -> Formula:
    """query (B, L, H, D); or (tokens, H, D), (1, tokens, H, D) with the sequences' bounds in cum_seq / cu_seqlens."""

    def formula(call: Call) -> Work:
        *_, heads, width = call.shape("query")
        value = call.shape("value")
        query_lengths = _lengths(call, "query", ("cum_seq_q", "cu_seqlens_q"))
        key_lengths = _lengths(call, "key", ("cum_seq_k", "cu_seqlens_k"))
        causal = call.arguments.get("is_causal") or call.arguments.get("custom_mask_type")
        pairs = sum(q * k for q, k in zip(query_lengths, key_lengths, strict=True))
        seen = sum(_causal_pairs(q, k) for q, k in zip(query_lengths, key_lengths, strict=True)) if causal else pairs
        return attention_work(heads * pairs, heads * (pairs - seen), width, value[-1], backward)

    return formula


def _lengths(call: Call, tensor: str, bounds: Iterable[str]) -> list[int]:
    for name in bounds:
        bound = call.arguments.get(name)
        if bound is not None:
            lengths: list[int] = bound.diff().tolist()
            return lengths
    batch, length = call.shape(tensor)[:2]
    return [length] * batch


def _sequence_lengths(sequences: Tensor) -> list[int]:
    """Lengths of the sequences of a (B, L, D) or nested tensor."""
    if sequences.is_nested:
        nested: list[int] = sequences._nested_tensor_size()[:, 0].tolist()
        return nested
    return [sequences.shape[1]] * sequences.shape[0]


def _self_attention(lengths: list[int], width: int) -> Work:
    """Fused multi-head self-attention: projections in (3) and out (1), biases, attention over all heads."""
    tokens, pairs = sum(lengths), sum(length**2 for length in lengths)
    return Work(8 * tokens * width**2, 4 * tokens * width) + attention_work(pairs, 0, width, width)


def _multi_head_attention(call: Call) -> Work:
    return _self_attention(_sequence_lengths(call.arguments["query"]), call.arguments["embed_dim"])


def _encoder_layer(call: Call) -> Work:
    lengths, width = _sequence_lengths(call.arguments["src"]), call.arguments["embed_dim"]
    hidden, tokens = call.shape("ffn_weight_1")[0], sum(lengths)
    activation = GELU if call.arguments["use_gelu"] else 1
    residuals_and_norms = tokens * width * (2 + 2 * NORMALISATION)
    feed_forward = Work(4 * tokens * width * hidden, tokens * (width + hidden * (1 + activation)))
    return _self_attention(lengths, width) + feed_forward + Work(pointwise=residuals_and_norms)


def _flex_attention(backward: bool = False) -> Formula:
    """Blocks that the block mask leaves are executed whole; the positions inside them are not looked into."""

    def formula(call: Call) -> Work:
        (batch, heads, queries, width), value = call.shape("query"), call.shape("value")
        blocks = call.arguments.get("block_mask")
        pairs = batch * heads * queries * value[-2]
        if blocks is not None and not blocks[2].is_meta:
            partial, full, (rows, columns) = blocks[2], blocks[4], blocks[-3:-1]
            kept = int(partial.sum()) + (0 if full is None else int(full.sum()))
            repeats = batch * heads // (partial.shape[0] * partial.shape[1])
            pairs = min(pairs, kept * repeats * rows * columns)
        return attention_work(pairs, 0, width, value[-1], backward)

    return formula


ATTENTION: dict[str, Formula] = {
    **table(
        _attention(),
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math_for_mps",
    ),
    **table(
        _attention(backward=True),
        "_scaled_dot_product_flash_attention_for_cpu_backward _scaled_dot_product_flash_attention_backward "
        "_scaled_dot_product_efficient_attention_backward _scaled_dot_product_cudnn_attention_backward "
        "_scaled_dot_product_fused_attention_overrideable_backward",
    ),
    **table(_packed_attention(), "_flash_attention_forward _efficient_attention_forward"),
    **table(_packed_attention(backward=True), "_flash_attention_backward _efficient_attention_backward"),
    "higher_order::flex_attention": _flex_attention(),
    "higher_order::flex_attention_backward": _flex_attention(backward=True),
    "_native_multi_head_attention": _multi_head_attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
}
