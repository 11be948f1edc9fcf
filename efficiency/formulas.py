"""Operation -> formula: the floating-point work of one call, from its shapes alone.

Contractions (matrix products, convolutions, attention, recurrent layers) and pointwise work (everything else that
computes) stand in separate columns. One multiply-add is 2 FLOPs. docs/efficiency.md lists the conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Work:
    """FLOPs of an operation or of many. `masked` is the part of `contraction` spent on positions that a causal
    mask throws away: a dense kernel executes it, the result does not depend on it.
    """

    contraction: int = 0
    pointwise: int = 0
    masked: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.contraction + other.contraction, self.pointwise + other.pointwise, self.masked + other.masked)

    @property
    def effective(self) -> int:
        """Contraction FLOPs that the result depends on."""
        return self.contraction - self.masked


@dataclass(frozen=True)
class Call:
    """One executed operation: its arguments by the names of its schema, and the tensors it returned."""

    arguments: Mapping[str, Any]
    outputs: tuple[Tensor, ...]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor argument `name`."""
        return tuple(self.arguments[name].shape)

    @property
    def elements(self) -> int:
        """Elements of the first output: the result, not the statistics saved beside it."""
        return self.outputs[0].numel() if self.outputs else 0


Formula: TypeAlias = Callable[[Call], Work]


def register_formula(operation: str, formula: Formula, traffic: Callable[[Call], int] | None = None) -> None:
    """Give a custom operation (`namespace::name`, any overload) its formula, so that counts cover it.

    Args:
        operation: its name, as in `torch.ops.namespace.name`.
        formula: the work of one call.
        traffic: bytes that one call moves; every argument and result once when left out.
    """
    FORMULAS[operation] = formula
    if traffic is not None:
        TRAFFIC[operation] = traffic


def per_output(cost: int) -> Formula:
    """`cost` pointwise FLOPs for each element of the result."""
    return lambda call: Work(pointwise=cost * call.elements)


def per_element(argument: str, cost: int = 1) -> Formula:
    """`cost` pointwise FLOPs for each element of a tensor argument (reductions, scatters, backwards)."""
    return lambda call: Work(pointwise=cost * call.arguments[argument].numel())


def free(call: Call) -> Work:
    """Moves, creates or selects elements, computes nothing."""
    return Work()


def _product(first: str, second: str, added: bool = False) -> Formula:
    """(..., M, K) by (..., K, N) or (K): 2 FLOPs for each of the K steps of each result; `added` is a bias."""

    def formula(call: Call) -> Work:
        left = call.arguments[first]
        if left.layout in (torch.sparse_coo, torch.sparse_csr):  # each stored element meets one row of the other
            right = call.shape(second)
            steps = left._nnz() * (right[-1] if len(right) > 1 else 1)
        else:
            steps = left.shape[-1] * call.elements
        return Work(2 * steps, call.elements if added else 0)

    return formula


def _summed_product(call: Call) -> Work:
    batch, rows, steps = call.shape("batch1")
    return Work(2 * batch * rows * steps * call.shape("batch2")[-1], call.elements)


def _dot(call: Call) -> Work:
    return Work(2 * call.arguments["self"].numel())


def _convolution_flops(
    input_shape: tuple[int, ...], weight: tuple[int, ...], output: tuple[int, ...], transposed: bool
) -> int:
    # Every position of the output (transposed: of the input) meets every weight once per sample; grouping is
    # already in the weight's shape.
    positions = input_shape[2:] if transposed else output[2:]
    return 2 * input_shape[0] * prod(positions) * prod(weight)


def _convolution(input_name: str = "input") -> Formula:
    def formula(call: Call) -> Work:
        output = call.outputs[0]
        transposed = bool(call.arguments.get("transposed", False))
        flops = _convolution_flops(call.shape(input_name), call.shape("weight"), tuple(output.shape), transposed)
        return Work(flops, output.numel() if call.arguments.get("bias") is not None else 0)

    return formula


def _convolution_backward(call: Call) -> Work:
    into_input, into_weight, into_bias = call.arguments["output_mask"]
    flops = _convolution_flops(
        call.shape("input"), call.shape("weight"), call.shape("grad_output"), call.arguments["transposed"]
    )
    bias = call.arguments["grad_output"].numel() if into_bias else 0
    return Work(flops * (into_input + into_weight), bias)


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


def _recurrent(weights: Callable[[Call], Iterable[Tensor]], products: int = 1) -> Formula:
    """Every weight matrix of every layer and direction meets every time step of every sequence once."""

    def formula(call: Call) -> Work:
        steps = prod(call.shape("input")[:-1])
        matrices = sum(weight.numel() for weight in weights(call) if weight.ndim == 2)
        return Work(2 * steps * matrices * products)

    return formula


def _mkldnn_weights(call: Call) -> Iterable[Tensor]:
    names = ("weight0", "weight1") if "weight0" in call.arguments else ("weight1", "weight2")
    return [call.arguments[name] for name in names]


def _window(argument: str | None = None) -> Formula:
    """Pooling with a window: one FLOP for each element of each window."""

    def formula(call: Call) -> Work:
        windows = call.arguments[argument].numel() if argument else call.elements
        sizes = call.arguments["kernel_size"]
        spatial = call.outputs[0].ndim - (2 if call.outputs[0].ndim > 2 else 1)
        return Work(pointwise=windows * (prod(sizes) if len(sizes) > 1 else sizes[0] ** spatial))

    return formula


def _grid_sample(backward: bool = False) -> Formula:
    """Interpolation: 2 FLOPs for each neighbour of each result, 10 for each sampled position."""

    def formula(call: Call) -> Work:
        grid = call.shape("grid")
        dimensions, mode = grid[-1], call.arguments["interpolation_mode"]
        neighbours = {0: 2**dimensions, 1: 1, 2: 4**dimensions}[mode]
        channels, positions = call.shape("input")[1], prod(grid[:-1])
        cost = positions * (10 + 2 * neighbours * channels)
        return Work(pointwise=2 * cost if backward else cost)

    return formula


NORMALISATION = 8
"""FLOPs of normalising an element: mean 1, variance 3, subtract, scale, affine 2."""
GELU = 5


def _batch_norm(call: Call) -> Work:
    training = call.arguments.get("training", call.arguments.get("train", "legit" in call.arguments))
    return Work(pointwise=call.elements * (NORMALISATION if training else 4))


def _foreach(cost: int) -> Formula:
    """`cost` FLOPs for each element of each tensor of the list `self`: what optimisers do."""
    return lambda call: Work(pointwise=cost * sum(t.numel() for t in call.arguments["self"]))


def _fused_optimiser(cost: int) -> Formula:
    return lambda call: Work(pointwise=cost * sum(t.numel() for t in call.arguments["self"]))


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


def _quantised_linear(call: Call) -> Work:
    return Work(2 * call.shape("X")[-1] * call.elements, call.elements)


def _quantised_convolution(call: Call) -> Work:
    weight = call.arguments["packed_weight"].unpack()[0]
    return Work(2 * call.elements * prod(weight.shape[1:]), call.elements)


def _table(formula: Formula, names: str) -> dict[str, Formula]:
    return dict.fromkeys(names.split(), formula)


FORMULAS: dict[str, Formula] = {
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "mv": _product("self", "vec"),
    "_int_mm": _product("self", "mat2"),
    "_scaled_mm": _product("self", "mat2"),
    "addmm": _product("mat1", "mat2", added=True),
    "_addmm_activation": _product("mat1", "mat2", added=True),
    "addmv": _product("mat", "vec", added=True),
    "baddbmm": _product("batch1", "batch2", added=True),
    "addbmm": _summed_product,
    "dot": _dot,
    "vdot": _dot,
    **_table(_convolution(), "convolution convolution_overrideable _convolution conv_depthwise3d"),
    **_table(
        _convolution("self"),
        "cudnn_convolution cudnn_convolution_transpose mkldnn_convolution miopen_convolution _conv_depthwise2d "
        "miopen_depthwise_convolution _slow_conv2d_forward slow_conv3d_forward",
    ),
    **_table(_convolution_backward, "convolution_backward convolution_backward_overrideable"),
    **_table(
        _attention(),
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math_for_mps",
    ),
    **_table(
        _attention(backward=True),
        "_scaled_dot_product_flash_attention_for_cpu_backward _scaled_dot_product_flash_attention_backward "
        "_scaled_dot_product_efficient_attention_backward _scaled_dot_product_cudnn_attention_backward "
        "_scaled_dot_product_fused_attention_overrideable_backward",
    ),
    **_table(_packed_attention(), "_flash_attention_forward _efficient_attention_forward"),
    **_table(_packed_attention(backward=True), "_flash_attention_backward _efficient_attention_backward"),
    "higher_order::flex_attention": _flex_attention(),
    "higher_order::flex_attention_backward": _flex_attention(backward=True),
    **_table(
        _quantised_linear,
        "quantized::linear quantized::linear_relu quantized::linear_dynamic quantized::linear_relu_dynamic",
    ),
    **_table(_quantised_convolution, "quantized::conv2d.new quantized::conv2d quantized::conv2d_relu"),
    **_table(free, "quantize_per_tensor quantize_per_tensor_dynamic dequantize q_scale q_zero_point int_repr"),
    **_table(_fused_optimiser(12), "_fused_adam _fused_adamw"),
    **_table(_fused_optimiser(4), "_fused_sgd _fused_adagrad"),
    **_table(
        _foreach(1),
        "_foreach_add _foreach_sub _foreach_mul _foreach_div _foreach_neg _foreach_sqrt _foreach_rsqrt _foreach_pow "
        "_foreach_reciprocal _foreach_maximum _foreach_minimum _foreach_clamp_min _foreach_clamp_max _foreach_abs "
        "_foreach_sign _foreach_exp _foreach_log _foreach_max",
    ),
    **_table(_foreach(2), "_foreach_addcmul _foreach_addcdiv _foreach_lerp _foreach_norm"),
    **_table(free, "_foreach_copy _foreach_zero"),
    "_native_multi_head_attention": _multi_head_attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "mkldnn_rnn_layer": _recurrent(_mkldnn_weights),
    "mkldnn_rnn_layer_backward": _recurrent(_mkldnn_weights, products=2),
    "_cudnn_rnn": _recurrent(lambda call: call.arguments["weight"]),
    "_cudnn_rnn_backward": _recurrent(lambda call: call.arguments["weight"], products=2),
    **_table(
        per_output(1),
        "add sub rsub mul div true_divide neg abs maximum minimum fmax fmin clamp clamp_min clamp_max relu sign floor "
        "ceil round trunc frac remainder fmod floor_divide eq ne lt le gt ge logical_and logical_or logical_not "
        "bitwise_and bitwise_or bitwise_not bitwise_xor isnan isinf isfinite where threshold exp exp2 expm1 log "
        "log2 log10 log1p sqrt rsqrt reciprocal pow square sin cos tan tanh atan atan2 asin acos sinh cosh erf "
        "erfc erfinv cumsum cumprod native_dropout _fused_dropout threshold_backward relu6 hardtanh "
        "mse_loss hypot",
    ),
    **_table(
        per_output(2),
        "addcmul addcdiv lerp leaky_relu prelu _prelu_kernel hardtanh_backward tanh_backward smooth_l1_loss glu",
    ),
    **_table(
        per_output(3),
        "elu celu selu softplus sigmoid_backward leaky_relu_backward log_sigmoid_forward linalg_cross logaddexp",
    ),
    **_table(
        per_output(4), "sigmoid hardsigmoid elu_backward softplus_backward hardsigmoid_backward native_dropout_backward"
    ),
    **_table(per_output(5), "silu hardswish _softmax _log_softmax _safe_softmax binary_cross_entropy_with_logits"),
    **_table(per_output(6), "silu_backward hardswish_backward mish log_sigmoid_backward"),
    "gelu": per_output(GELU),
    "gelu_backward": per_output(2 * GELU),
    "mish_backward": per_output(12),
    **_table(per_output(4), "_softmax_backward_data _log_softmax_backward_data"),
    **_table(
        per_element("self"),
        "sum mean amax amin max min argmax argmin prod any all count_nonzero nansum logcumsumexp norm",
    ),
    **_table(per_element("self", 2), "linalg_vector_norm logsumexp nll_loss_forward"),
    **_table(per_element("self", 4), "var var_mean std std_mean"),
    **_table(per_output(NORMALISATION), "native_layer_norm native_group_norm _fused_rms_norm"),
    **_table(
        per_output(2 * NORMALISATION),
        "native_layer_norm_backward native_group_norm_backward native_batch_norm_backward batch_norm_backward "
        "cudnn_batch_norm_backward miopen_batch_norm_backward _fused_rms_norm_backward",
    ),
    **_table(
        _batch_norm,
        "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit _batch_norm_with_update",
    ),
    **_table(per_output(4), "_native_batch_norm_legit_no_training _batch_norm_no_update"),
    **_table(_window(), "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d avg_pool1d"),
    **_table(_window("grad_output"), "avg_pool2d_backward avg_pool3d_backward"),
    **_table(
        per_element("self"),
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool1d",
    ),
    **_table(
        per_element("grad_output"),
        "max_pool2d_with_indices_backward max_pool3d_with_indices_backward _adaptive_avg_pool2d_backward "
        "_adaptive_avg_pool3d_backward adaptive_max_pool2d_backward embedding_dense_backward mse_loss_backward "
        "nll_loss_backward",
    ),
    **_table(_grid_sample(), "grid_sampler_2d grid_sampler_3d cudnn_grid_sampler"),
    **_table(_grid_sample(backward=True), "grid_sampler_2d_backward grid_sampler_3d_backward"),
    **_table(per_output(2), "upsample_linear1d"),
    **_table(per_output(8), "upsample_bilinear2d _upsample_bilinear2d_aa"),
    **_table(per_output(16), "upsample_trilinear3d"),
    **_table(per_output(32), "upsample_bicubic2d _upsample_bicubic2d_aa"),
    **_table(per_element("grad_output", 8), "upsample_bilinear2d_backward _upsample_bilinear2d_aa_backward"),
    **_table(per_element("grad_output", 32), "upsample_bicubic2d_backward _upsample_bicubic2d_aa_backward"),
    **_table(
        free,
        "clone copy _to_copy cat stack empty empty_strided empty_like new_empty new_empty_strided new_zeros "
        "new_ones new_full zeros zeros_like ones ones_like full full_like scalar_tensor arange linspace eye fill zero "
        "rand rand_like randn randn_like randint randint_like randperm uniform normal bernoulli exponential random "
        "embedding index index_select gather scatter slice_scatter select_scatter slice_backward "
        "select_backward index_copy masked_fill masked_select masked_scatter take take_along_dim constant_pad_nd "
        "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d "
        "roll flip repeat repeat_interleave tril triu im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle "
        "topk sort argsort nonzero tril_indices triu_indices searchsorted bucketize unfold unfold_backward "
        "one_hot _unsafe_view lift_fresh lift_fresh_copy resize resize_as set _local_scalar_dense item "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _pin_memory rot90 kthvalue complex "
        "_nested_tensor_from_mask _nested_tensor_size to_padded_tensor _nested_tensor_from_mask_left_aligned "
        "_cudnn_rnn_flatten_weight as_strided transpose t squeeze unsqueeze detach "
        "equal is_same_size unsafe_split unsafe_split_with_sizes unsafe_chunk",
    ),
    **_table(per_element("values"), "index_put _index_put_impl _unsafe_index_put"),
    **_table(per_element("src"), "scatter_add"),
    **_table(per_element("source"), "index_add"),
    **_table(per_output(1), "upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward"),
}
"""By name of the operation, without the `aten::` namespace, overload, and the `_` of in-place variants."""

TRAFFIC: dict[str, Callable[[Call], int]] = {}
"""Bytes moved by one call, for custom operations that brought a formula for them."""
