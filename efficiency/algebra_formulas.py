"""Formulas of operations outside the common layers: grouped, sparse and trilinear products, linear algebra, Fourier
transforms, distances, bags of embeddings.

Dense factorisations have the operation counts of Golub and Van Loan, Matrix Computations; a Fourier transform of N
complex numbers is 5 N log2 N, of N real ones half of that (the convention of FFTW's benchmarks).
"""

from __future__ import annotations

from math import log2, prod

from naslab.efficiency.work import Call, Formula, Work, free, per_element, per_output, table


def _grouped_product(call: Call) -> Work:
    """Rows sorted by group (M, K) by (G, K, N), or its gradients' forms; (M, K) by (K, N) cut along K gives (G, M, N),
    each step of K in one group only.
    """
    first, second = call.shape("self" if "self" in call.arguments else "mat_a"), call.arguments.get("mat2")
    other = call.shape("mat_b") if second is None else tuple(second.shape)
    groups = call.outputs[0].shape[0] if len(first) == len(other) == 2 else 1
    return Work(2 * first[-1] * call.elements // groups)


def _trilinear(call: Call) -> Work:
    """sum_ij x_i w_oij y_j for each result and sample: what nn.Bilinear is. Computed as x w first, then by y, each a
    product over the expanded operands.
    """
    expanded = [list(call.shape(name)) for name in ("i1", "i2", "i3")]
    for shape, name in zip(expanded, ("expand1", "expand2", "expand3"), strict=True):
        for position in call.arguments[name]:
            shape.insert(position, 1)
    return Work(2 * prod(max(sizes) for sizes in zip(*expanded, strict=True)))


def _factor(numerator: int, denominator: int, *, solves: str | None = None) -> Formula:
    """`numerator / denominator` n^3 FLOPs a matrix, and 2 n^2 for each right-hand side in the argument `solves`."""

    def formula(call: Call) -> Work:
        name = "A" if "A" in call.arguments else "self"
        *batch, rows, _ = call.shape(name)
        flops = prod(batch) * numerator * rows**3 // denominator
        columns = call.elements // rows if solves is not None else 0
        return Work(flops + 2 * rows**2 * columns)

    return formula


def _triangular(call: Call) -> Work:
    """n^2 for each column of the result (of each row, solving from the right)."""
    rows = call.shape("self" if "self" in call.arguments else "A")[-1]
    return Work(rows * call.elements)


def _qr(call: Call) -> Work:
    *batch, rows, columns = call.shape("A")
    long, short = max(rows, columns), min(rows, columns)
    return Work(prod(batch) * (2 * long * short**2 - 2 * short**3 // 3))


def _fourier(cost: float, of_output: bool = False) -> Formula:
    def formula(call: Call) -> Work:
        shape = tuple(call.outputs[0].shape) if of_output else call.shape("self")
        length = prod(shape[dimension] for dimension in call.arguments["dim"])
        return Work(pointwise=round(cost * prod(shape) * log2(max(length, 1))))

    return formula


def _euclidean(call: Call) -> Work:
    """Distances by one matrix product, each point given its squared norm and a one (two more columns)."""
    width = call.shape("x1")[-1]
    return Work(2 * (width + 2) * call.elements, 2 * call.elements)


def _distances(call: Call) -> Work:
    return Work(pointwise=3 * call.shape("x1")[-1] * call.elements)


def _bag(call: Call) -> Work:
    width = call.shape("weight")[-1] if "weight" in call.arguments else call.shape("grad")[-1]
    return Work(pointwise=call.arguments["indices"].numel() * width)


ALGEBRA: dict[str, Formula] = {
    "_grouped_mm": _grouped_product,
    "_scaled_grouped_mm": _grouped_product,
    "_trilinear": _trilinear,
    "_linalg_solve_ex": _factor(2, 3, solves="B"),
    "linalg_lu_factor_ex": _factor(2, 3),
    "_linalg_det": _factor(2, 3),
    "_linalg_slogdet": _factor(2, 3),
    "linalg_cholesky_ex": _factor(1, 3),
    "linalg_inv_ex": _factor(2, 1),
    "cholesky_solve": lambda call: Work(2 * call.shape("self")[-2] * call.elements),
    "linalg_solve_triangular": _triangular,
    "triangular_solve": _triangular,
    "linalg_qr": _qr,
    "_fft_r2c": _fourier(2.5),
    "_fft_c2r": _fourier(2.5, of_output=True),
    "_fft_c2c": _fourier(5),
    "_euclidean_dist": _euclidean,
    "_cdist_forward": _distances,
    "_embedding_bag": _bag,
    "_embedding_bag_forward_only": _bag,
    "_embedding_bag_backward": _bag,
    "_embedding_bag_dense_backward": _bag,
    "addr": per_output(2),
    "_sparse_sum": per_element("self"),
    "_sparse_softmax": per_output(5),
    "_sparse_log_softmax": per_output(5),
    **table(per_output(4), "_sparse_softmax_backward_data _sparse_log_softmax_backward_data"),
    "scatter_reduce": per_element("src"),
    "index_reduce": per_element("source"),
    "segment_reduce": per_element("data"),
    "_segment_reduce_backward": per_element("data"),
    "_pdist_forward": lambda call: Work(pointwise=3 * call.shape("self")[-1] * call.elements),
    "affine_grid_generator": lambda call: Work(2 * call.shape("theta")[2] * call.elements),
    **table(per_output(4), "fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask"),
    "cummax": per_output(1),
    "cummin": per_output(1),
    "histc": per_element("self"),
    "aminmax": per_element("self", 2),
    "_weight_norm_interface": per_element("v", 3),
    "_weight_norm_interface_backward": per_element("saved_v", 6),
    **dict.fromkeys(
        (f"{kind}_pad{dimensions}d_backward" for kind in ("reflection", "replication") for dimensions in (1, 2, 3)),
        per_element("grad_output"),
    ),
    **dict.fromkeys(
        (
            "median nanmedian mode view_as_real view_as_complex real imag conj _conj _conj_physical conj_physical "
            "resolve_conj _linalg_check_errors _pack_padded_sequence _pack_padded_sequence_backward _to_sparse "
            "_to_sparse_csr _to_sparse_csc _to_sparse_bsr _to_sparse_bsc _to_dense _coalesce _coalesced sparse_mask "
            "_sparse_coo_tensor_with_dims_and_tensors _sparse_coo_tensor_unsafe _sparse_compressed_tensor_unsafe "
            "_sparse_csr_tensor_unsafe _indices _values diag_embed _efficientzerotensor _has_same_storage_numel "
            "_empty_affine_quantized quantized::linear_prepack quantized::conv2d_prepack"
        ).split(),
        free,
    ),
}
