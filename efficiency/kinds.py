"""The kinds of work that a count distinguishes, and the kind of each operation."""

from __future__ import annotations

from naslab.efficiency.formulas import FORMULAS, Call, free

MATRIX_PRODUCT = "matrix product"
EINSUM = "einsum"
CONVOLUTION = "convolution"
GROUPED_CONVOLUTION = "grouped convolution"
ATTENTION = "attention"
RECURRENT = "recurrent"
NORMALISATION = "normalisation"
EMBEDDING = "embedding"
ELEMENTWISE = "elementwise"
MOVEMENT = "data movement"
CUSTOM = "custom"
UNKNOWN = "no formula"

KINDS = (
    *(MATRIX_PRODUCT, EINSUM, CONVOLUTION, GROUPED_CONVOLUTION, ATTENTION, RECURRENT),
    *(NORMALISATION, EMBEDDING, ELEMENTWISE, MOVEMENT, CUSTOM, UNKNOWN),
)
"""In the order in which tables show them."""

_MATRIX = frozenset(
    "mm bmm mv _int_mm _weight_int8pack_mm _weight_int4pack_mm _weight_int4pack_mm_for_cpu _scaled_mm addmm "
    "_addmm_activation addmv baddbmm addbmm dot vdot linear linear_backward "
    "_grouped_mm _scaled_grouped_mm _trilinear _sparse_addmm _sparse_mm _sparse_sparse_matmul _sparse_mm_reduce_impl "
    "sparse_sampled_addmm _euclidean_dist _linalg_solve_ex linalg_lu_factor_ex _linalg_det _linalg_slogdet "
    "linalg_cholesky_ex linalg_inv_ex cholesky_solve linalg_solve_triangular triangular_solve linalg_qr "
    "quantized::linear quantized::linear_relu quantized::linear_dynamic quantized::linear_relu_dynamic".split()
) | {"nested matmul"}


def kind_of(name: str, call: Call, covered: bool = True) -> str:
    """The kind of the operation called `name` (see `operation_name`); elementwise includes reductions and pooling.

    Args:
        covered: false where nothing is known of its work.
    """
    if not covered:
        return UNKNOWN
    if name not in FORMULAS:
        return MOVEMENT
    if name in _MATRIX:
        return MATRIX_PRODUCT
    for mark, kind in _MARKS.items():
        if mark in name:
            return GROUPED_CONVOLUTION if kind == CONVOLUTION and _is_grouped(name, call) else kind
    if FORMULAS[name] is free:
        return MOVEMENT
    return CUSTOM if "::" in name else ELEMENTWISE


def _is_grouped(name: str, call: Call) -> bool:
    return "depthwise" in name or int(call.arguments.get("groups", 1)) > 1


_MARKS = {
    "conv": CONVOLUTION,
    "attention": ATTENTION,
    "transformer_encoder_layer": ATTENTION,
    "rnn": RECURRENT,
    "native_layer_norm": NORMALISATION,
    "group_norm": NORMALISATION,
    "batch_norm": NORMALISATION,
    "rms_norm": NORMALISATION,
    "embedding": EMBEDDING,
}
