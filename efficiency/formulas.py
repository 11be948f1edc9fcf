"""Operation -> formula: the floating-point work of one call, from its shapes alone.

Contractions (matrix products, convolutions, attention, recurrent layers) and pointwise work (everything else that
computes) stand in separate columns. One multiply-add is 2 FLOPs. docs/efficiency.md lists the conventions.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from naslab.efficiency.algebra_formulas import ALGEBRA
from naslab.efficiency.attention_formulas import ATTENTION
from naslab.efficiency.detection_formulas import DETECTION
from naslab.efficiency.kernel_formulas import KERNELS
from naslab.efficiency.product_formulas import PRODUCTS
from naslab.efficiency.work import (
    GELU,
    NORMALISATION,
    Call,
    Formula,
    Work,
    free,
    per_element,
    per_output,
    table,
)

__all__ = ["FORMULAS", "TRAFFIC", "Call", "Formula", "Work", "free", "per_element", "per_output", "register_formula"]


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


def _window(dimensions: int, argument: str | None = None) -> Formula:
    """Pooling with a window: one FLOP for each element of each window."""

    def formula(call: Call) -> Work:
        windows = call.arguments[argument].numel() if argument else call.elements
        sizes = list(call.arguments["kernel_size"])  # one stands for all
        return Work(pointwise=windows * prod(sizes * (dimensions // len(sizes))))

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


def _batch_norm(call: Call) -> Work:
    trains = call.arguments.get("training", True)  # `_batch_norm_with_update` is not asked
    return Work(pointwise=call.elements * (NORMALISATION if trains else 4))


def _foreach(cost: int) -> Formula:
    """`cost` FLOPs for each element of each tensor of the list `self`: what optimisers do."""
    return lambda call: Work(pointwise=cost * sum(t.numel() for t in call.arguments["self"]))


FORMULAS: dict[str, Formula] = {
    **PRODUCTS,
    **ATTENTION,
    **table(free, "quantize_per_tensor quantize_per_tensor_dynamic dequantize q_scale q_zero_point int_repr"),
    **table(_foreach(12), "_fused_adam _fused_adamw"),
    **table(_foreach(4), "_fused_sgd _fused_adagrad"),
    **table(
        _foreach(1),
        "_foreach_add _foreach_sub _foreach_mul _foreach_div _foreach_neg _foreach_sqrt _foreach_rsqrt _foreach_pow "
        "_foreach_reciprocal _foreach_maximum _foreach_minimum _foreach_clamp_min _foreach_clamp_max _foreach_abs "
        "_foreach_sign _foreach_exp _foreach_log _foreach_max",
    ),
    **table(_foreach(2), "_foreach_addcmul _foreach_addcdiv _foreach_norm"),
    **table(_foreach(3), "_foreach_lerp"),
    **table(free, "_foreach_copy _foreach_zero"),
    **table(
        per_output(1),
        "add sub rsub mul div true_divide neg abs maximum minimum fmax fmin clamp clamp_min clamp_max relu sign floor "
        "ceil round trunc frac remainder fmod floor_divide eq ne lt le gt ge logical_and logical_or logical_not "
        "bitwise_and bitwise_or bitwise_not bitwise_xor isnan isinf isfinite where threshold exp exp2 expm1 log "
        "log2 log10 log1p sqrt rsqrt reciprocal pow square sin cos tan tanh atan atan2 asin acos sinh cosh erf "
        "erfc erfinv cumsum cumprod native_dropout _fused_dropout threshold_backward relu6 hardtanh "
        "hypot sgn heaviside nan_to_num copysign nextafter xlogy special_xlog1py lgamma digamma polygamma i0 "
        "special_i0e special_i1 special_i1e special_erfcx special_ndtri special_log_ndtr sinc hardshrink softshrink "
        "hardshrink_backward softshrink_backward rrelu_with_noise rrelu_with_noise_backward logit polar "
        "prims::add",
    ),
    **table(
        per_output(2),
        "addcmul addcdiv leaky_relu prelu _prelu_kernel _prelu_kernel_backward hardtanh_backward tanh_backward",
    ),
    **table(
        per_output(3),
        "elu celu selu softplus sigmoid_backward leaky_relu_backward log_sigmoid_forward linalg_cross logaddexp "
        "logit_backward lerp",
    ),
    **table(
        per_output(4), "sigmoid hardsigmoid elu_backward softplus_backward hardsigmoid_backward native_dropout_backward"
    ),
    **table(
        per_output(5),
        "silu hardswish mish _softmax _log_softmax _safe_softmax glu glu_backward",
    ),
    **table(per_output(6), "silu_backward hardswish_backward log_sigmoid_backward"),
    "gelu": per_output(GELU),
    "gelu_backward": per_output(2 * GELU),
    "mish_backward": per_output(12),
    **table(per_output(4), "_softmax_backward_data _log_softmax_backward_data _masked_softmax_backward"),
    **table(
        per_element("self"),
        "sum mean amax amin max min argmax argmin prod any all count_nonzero nansum logcumsumexp norm",
    ),
    **table(per_element("self", 2), "linalg_vector_norm logsumexp nll_loss_forward"),
    **table(per_element("self", 4), "var var_mean std std_mean"),
    **table(per_output(NORMALISATION), "native_layer_norm native_group_norm _fused_rms_norm"),
    **table(
        per_output(2 * NORMALISATION),
        "native_layer_norm_backward native_group_norm_backward native_batch_norm_backward batch_norm_backward "
        "cudnn_batch_norm_backward miopen_batch_norm_backward _fused_rms_norm_backward",
    ),
    **table(
        _batch_norm,
        "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit _batch_norm_with_update",
    ),
    **table(per_output(4), "_native_batch_norm_legit_no_training _batch_norm_no_update"),
    **table(_window(1), "avg_pool1d"),
    **table(_window(2), "max_pool2d_with_indices avg_pool2d"),
    **table(_window(3), "max_pool3d_with_indices avg_pool3d"),
    **table(_window(2, "grad_output"), "avg_pool2d_backward"),
    **table(_window(3, "grad_output"), "avg_pool3d_backward"),
    **table(
        per_element("self"),
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool1d",
    ),
    **table(
        per_element("grad_output"),
        "max_pool2d_with_indices_backward max_pool3d_with_indices_backward _adaptive_avg_pool2d_backward "
        "_adaptive_avg_pool3d_backward adaptive_max_pool2d_backward adaptive_max_pool3d_backward "
        "fractional_max_pool2d_backward fractional_max_pool3d_backward embedding_dense_backward nll_loss_backward "
        "nll_loss2d_backward upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward",
    ),
    **table(_grid_sample(), "grid_sampler_2d grid_sampler_3d cudnn_grid_sampler"),
    **table(_grid_sample(backward=True), "grid_sampler_2d_backward grid_sampler_3d_backward"),
    **table(per_output(4), "upsample_linear1d"),
    **table(per_element("grad_output", 4), "upsample_linear1d_backward"),
    **table(per_element("grad_output", 16), "upsample_trilinear3d_backward"),
    **table(
        per_element("self", 3),
        "renorm mse_loss mse_loss_backward huber_loss smooth_l1_loss smooth_l1_loss_backward soft_margin_loss_backward",
    ),
    **table(
        per_element("self", 5),
        "soft_margin_loss binary_cross_entropy binary_cross_entropy_backward binary_cross_entropy_with_logits "
        "multi_margin_loss multi_margin_loss_backward multilabel_margin_loss_forward multilabel_margin_loss_backward "
        "huber_loss_backward",
    ),
    "multinomial": per_element("self", 2),
    "fractional_max_pool2d": per_element("self"),
    **table(per_output(8), "upsample_bilinear2d _upsample_bilinear2d_aa"),
    **table(per_output(16), "upsample_trilinear3d"),
    **table(per_output(32), "upsample_bicubic2d _upsample_bicubic2d_aa"),
    **table(per_element("grad_output", 8), "upsample_bilinear2d_backward _upsample_bilinear2d_aa_backward"),
    **table(per_element("grad_output", 32), "upsample_bicubic2d_backward _upsample_bicubic2d_aa_backward"),
    **table(
        free,
        "clone copy _to_copy cat stack empty empty_strided empty_like new_empty new_empty_strided new_zeros "
        "new_ones new_full zeros zeros_like ones ones_like full full_like scalar_tensor arange linspace eye fill zero "
        "rand rand_like randn randn_like randint randint_like randperm uniform normal bernoulli exponential random "
        "embedding index index_select gather scatter slice_scatter select_scatter slice_backward "
        "select_backward index_copy masked_fill masked_select masked_scatter masked_scatter_backward take "
        "take_along_dim constant_pad_nd "
        "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d "
        "roll flip repeat repeat_interleave tril triu im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle "
        "topk sort argsort nonzero tril_indices triu_indices searchsorted bucketize unfold unfold_backward "
        "one_hot _unsafe_view lift_fresh lift_fresh_copy resize resize_as set _local_scalar_dense item "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _pin_memory rot90 kthvalue complex "
        "_nested_tensor_from_mask _nested_tensor_size _nested_tensor_strides "
        "_nested_tensor_storage_offsets to_padded_tensor _nested_tensor_from_mask_left_aligned "
        "_cudnn_rnn_flatten_weight as_strided transpose t squeeze unsqueeze detach "
        "max_unpool2d max_unpool3d _unique2 unique_dim unique_consecutive _nested_tensor_from_tensor_list "
        "equal is_same_size unsafe_split unsafe_split_with_sizes unsafe_chunk",
    ),
    **table(per_element("values"), "index_put _index_put_impl _unsafe_index_put"),
    **table(per_element("src"), "scatter_add"),
    **table(per_element("source"), "index_add"),
    **ALGEBRA,
    **DETECTION,
    **KERNELS,
}
"""By name of the operation, without the `aten::` namespace, overload, and the `_` of in-place variants."""

TRAFFIC: dict[str, Callable[[Call], int]] = {}
"""Bytes moved by one call, for custom operations that brought a formula for them."""
