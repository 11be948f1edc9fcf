"""Formulas of matrix products, dense, sparse and quantised, of convolutions and of recurrent layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

import torch
from torch import Tensor

from naslab.efficiency.tensors import is_sparse, stored_elements
from naslab.efficiency.work import Call, Formula, Work, table


def _product(first: str, second: str, added: bool = False) -> Formula:
    """(..., M, K) by (..., K, N) or (K): 2 FLOPs for each step of each result; `added` is a bias."""

    def formula(call: Call) -> Work:
        left, right = call.arguments[first], call.arguments[second]
        sparse = is_sparse(left) or is_sparse(right)
        steps = sparse_steps(left, right) if sparse else left.shape[-1] * call.elements
        return Work(2 * steps, call.elements if added else 0)

    return formula


def sparse_steps(left: Tensor, right: Tensor) -> int:
    """Multiply-adds of a product with sparse operands: a stored element of the left meets a row of the right, one of
    the right a column of the left, and of two sparse matrices those elements meet whose inner index is the same.
    """
    if not is_sparse(right):
        return stored_elements(left) * (right.shape[-1] if right.ndim > 1 else 1)
    if not is_sparse(left):
        return stored_elements(right) * (left.numel() // left.shape[-1])
    inner = [_stored_at(left, 1, left.shape[1]), _stored_at(right, 0, right.shape[0])]
    return int((inner[0] * inner[1]).sum())


def _stored_at(matrix: Tensor, dimension: int, size: int) -> Tensor:
    """How many elements a matrix stores at each index of a dimension."""
    indices = matrix.to_sparse_coo().coalesce().indices()
    return torch.bincount(indices[dimension], minlength=size)


def _linear(call: Call) -> Work:
    """Of a nested tensor, or of weights that are sparse; a dense layer arrives as a product."""
    rows, weight = call.arguments["input"], call.arguments["weight"]
    biased = call.elements if call.arguments.get("bias") is not None else 0
    if is_sparse(weight):
        return Work(2 * stored_elements(weight) * (stored_elements(rows) // weight.shape[1]), biased)
    return Work(2 * weight.shape[1] * call.elements, biased)


def _linear_backward(call: Call) -> Work:
    """Of a nested tensor: a product for the input's gradient, one for the weight's, and a sum for the bias's."""
    into_input, into_weight, into_bias = call.arguments["output_mask"]
    flops = 2 * call.shape("weight")[1] * stored_elements(call.arguments["grad_output"])
    return Work(flops * (into_input + into_weight), stored_elements(call.arguments["grad_output"]) * into_bias)


def _sampled(call: Call) -> Work:
    """A product of which only the stored positions of a sparse matrix are wanted."""
    return Work(2 * call.shape("mat1")[-1] * call.elements, 2 * call.elements)


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


def _quantised_linear(call: Call) -> Work:
    return Work(2 * call.shape("X")[-1] * call.elements, call.elements)


def _quantised_convolution(call: Call) -> Work:
    weight = call.arguments["packed_weight"].unpack()[0]
    return Work(2 * call.elements * prod(weight.shape[1:]), call.elements)


def _nested_product(call: Call) -> Work:
    """Each matrix of a nested tensor by its partner, or by the one that all share."""
    left, right = call.arguments["self"], call.arguments["other"]
    if not left.is_nested:
        return Work(2 * left.shape[-2] * stored_elements(right))
    columns = right._nested_tensor_size()[:, -1] if right.is_nested else right.shape[-1]
    return Work(2 * int((left._nested_tensor_size().prod(1) * columns).sum()))


def _packed_product(call: Call) -> Work:
    """(M, K) by weights of 8 or 4 bits, each scaled: the scale of a column once for each result."""
    return Work(2 * call.shape("self")[-1] * call.elements, call.elements)


def _time_first_convolution(backward: bool = False) -> Formula:
    """(T, B, C) by (K, C, C'): every position of the output meets every weight."""

    def formula(call: Call) -> Work:
        output = call.arguments["self"] if backward else call.outputs[0]
        steps = output.shape[0] * output.shape[1] * call.arguments["weight"].numel()
        return Work((4 if backward else 2) * steps, output.numel())

    return formula


PRODUCTS: dict[str, Formula] = {
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "mv": _product("self", "vec"),
    "_int_mm": _product("self", "mat2"),
    **table(_packed_product, "_weight_int8pack_mm _weight_int4pack_mm _weight_int4pack_mm_for_cpu"),
    "conv_tbc": _time_first_convolution(),
    "conv_tbc_backward": _time_first_convolution(backward=True),
    "_scaled_mm": _product("self", "mat2"),
    "addmm": _product("mat1", "mat2", added=True),
    "_addmm_activation": _product("mat1", "mat2", added=True),
    "addmv": _product("mat", "vec", added=True),
    "baddbmm": _product("batch1", "batch2", added=True),
    "addbmm": _summed_product,
    "linear": _linear,
    "nested matmul": _nested_product,
    "linear_backward": _linear_backward,
    "_sparse_addmm": _product("mat1", "mat2", added=True),
    "_sparse_mm": _product("sparse", "dense"),
    "_sparse_sparse_matmul": _product("self", "other"),
    "_sparse_mm_reduce_impl": _product("self", "other"),
    "sparse_sampled_addmm": _sampled,
    "dot": _dot,
    "vdot": _dot,
    **table(_convolution(), "convolution convolution_overrideable _convolution conv_depthwise3d"),
    **table(
        _convolution("self"),
        "cudnn_convolution cudnn_convolution_transpose mkldnn_convolution miopen_convolution _conv_depthwise2d "
        "miopen_depthwise_convolution _slow_conv2d_forward slow_conv3d_forward",
    ),
    **table(_convolution_backward, "convolution_backward convolution_backward_overrideable"),
    **table(
        _quantised_linear,
        "quantized::linear quantized::linear_relu quantized::linear_dynamic quantized::linear_relu_dynamic",
    ),
    **table(_quantised_convolution, "quantized::conv2d.new quantized::conv2d quantized::conv2d_relu"),
    "mkldnn_rnn_layer": _recurrent(_mkldnn_weights),
    "mkldnn_rnn_layer_backward": _recurrent(_mkldnn_weights, products=2),
    "_cudnn_rnn": _recurrent(lambda call: call.arguments["weight"]),
    "_cudnn_rnn_backward": _recurrent(lambda call: call.arguments["weight"], products=2),
}
