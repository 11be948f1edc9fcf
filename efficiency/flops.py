"""Floating-point operations of what really runs, counted at the dispatcher. One multiply-add is two.

What is counted is contractions (matrix products, convolutions, attention), the field's convention; element-wise
work, normalisation and pooling are known to hold none. `coverage` is the share of executed operations, by output
elements, that are one or the other; whatever else ran is named.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

NO_CONTRACTION = frozenset(
    [
        "native_batch_norm",
        "native_batch_norm_backward",
        "_native_batch_norm_legit",
        "native_layer_norm",
        "native_layer_norm_backward",
        "native_group_norm",
        "native_group_norm_backward",
        "cudnn_batch_norm",
        "cudnn_batch_norm_backward",
        "batch_norm_backward",
        "_batch_norm_with_update",
        "_batch_norm_no_update",
        "_fused_rms_norm",
        "_softmax",
        "_softmax_backward_data",
        "_log_softmax",
        "_log_softmax_backward_data",
        "softmax",
        "logsumexp",
        "sum",
        "mean",
        "amax",
        "amin",
        "max",
        "min",
        "argmax",
        "argmin",
        "prod",
        "any",
        "all",
        "cumsum",
        "var",
        "std",
        "var_mean",
        "std_mean",
        "linalg_vector_norm",
        "norm",
        "max_pool2d_with_indices",
        "max_pool2d_with_indices_backward",
        "avg_pool2d",
        "avg_pool2d_backward",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool2d_backward",
        "adaptive_max_pool2d",
        "embedding",
        "embedding_dense_backward",
        "gather",
        "scatter",
        "scatter_add",
        "index_select",
        "index",
        "index_put",
        "index_add",
        "grid_sampler_2d",
        "grid_sampler_2d_backward",
        "upsample_bilinear2d",
        "upsample_nearest2d",
        "upsample_bicubic2d",
        "nll_loss_forward",
        "nll_loss_backward",
        "nll_loss2d_forward",
        "nll_loss2d_backward",
        "mse_loss",
        "mse_loss_backward",
        "native_dropout",
        "native_dropout_backward",
        "bernoulli_",
        "rand",
        "randn",
        "randint",
        "randperm",
        "rand_like",
        "randn_like",
        "uniform_",
        "normal_",
        "cat",
        "stack",
        "copy_",
        "clone",
        "_to_copy",
        "fill",
        "fill_",
        "zero_",
        "zeros",
        "ones",
        "full",
        "empty",
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
        "empty_strided",
        "new_empty_strided",
        "arange",
        "scalar_tensor",
        "lift_fresh_copy",
        "topk",
        "sort",
        "argsort",
        "where",
        "masked_fill",
        "masked_fill_",
        "tril",
        "triu",
        "one_hot",
        "roll",
        "flip",
        "constant_pad_nd",
        "reflection_pad2d",
        "im2col",
        "col2im",
        "repeat",
        "repeat_interleave",
        "slice_backward",
        "select_backward",
        "slice_scatter",
        "select_scatter",
        "_local_scalar_dense",
        "item",
        "equal",
        "_assert_async",
        "nonzero",
        "unique_dim",
        "bucketize",
        "threshold_backward",
        "gelu_backward",
        "silu_backward",
        "elu_backward",
        "hardswish_backward",
        "hardsigmoid_backward",
        "leaky_relu_backward",
        "sigmoid_backward",
        "tanh_backward",
        "softplus_backward",
    ]
)
"""Operations that no contraction hides in and that the dispatcher does not already tag as element-wise."""


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one execution. `uncovered` names what neither had a formula nor is known to hold no contraction."""

    total: int
    by_operation: dict[str, int]
    coverage: float
    uncovered: tuple[str, ...]


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.elements: Counter[str] = Counter()
        self.known: dict[str, bool] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        formula = _FORMULAS.get(packet) or flop_registry.get(packet)
        if formula is None and func is not aten.detach.default:
            with self:
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        out = func(*args, **kwargs)
        name = packet.__name__
        if formula is not None:
            self.flops[name] += int(formula(*args, **kwargs, out_val=out))
        self.known[name] = formula is not None or _no_contraction(func, name)
        if not _is_view(func):
            self.elements[name] += sum(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out

    def result(self) -> FlopCount:
        everything = sum(self.elements.values())
        uncovered = {name: n for name, n in self.elements.items() if not self.known[name] and n}
        coverage = 1.0 - sum(uncovered.values()) / everything if everything else 1.0
        return FlopCount(sum(self.flops.values()), dict(self.flops), coverage, tuple(sorted(uncovered)))


def _no_contraction(func: Any, name: str) -> bool:
    return (
        torch.Tag.pointwise in func.tags
        or _is_view(func)
        or name in NO_CONTRACTION
        or name.rstrip("_") in NO_CONTRACTION
    )


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """QK^T and PV: 2 B H L S (E + Ev)."""
    length, depth = q.shape[-2:]
    return 2 * math.prod(q.shape[:-2]) * length * k.shape[-2] * (depth + v.shape[-1])


def _attention_backward(_: Tensor, q: Tensor, k: Tensor, v: Tensor, *__: Any, **___: Any) -> int:
    """Scores again, then the gradients of V, of the probabilities, of Q and of K: five products."""
    length, depth = q.shape[-2:]
    return 2 * math.prod(q.shape[:-2]) * length * k.shape[-2] * (3 * depth + 2 * v.shape[-1])


_FORMULAS: dict[Any, Callable[..., int]] = {
    getattr(aten, name): formula
    for name, formula in (
        ("_scaled_dot_product_flash_attention_for_cpu", _attention),
        ("_scaled_dot_product_flash_attention_for_cpu_backward", _attention_backward),
    )
    if hasattr(aten, name)
}
"""Attention on the CPU, which the usual counters see as nothing."""


def count(function: Callable[[], Any]) -> FlopCount:
    """FLOPs of one call of `function`, backward included where it runs one."""
    counter = _Counter()
    with _no_fused_encoder(), counter:
        function()
    return counter.result()


def count_forward(model: nn.Module, example_input: Tensor) -> FlopCount:
    """FLOPs of one forward for the whole batch, on a copy in evaluation mode."""
    twin = copy.deepcopy(model).eval()
    with torch.no_grad(), torch.random.fork_rng():
        return count(lambda: twin(example_input))


def count_training_step(model: nn.Module, example_input: Tensor) -> FlopCount:
    """FLOPs of a forward and a backward of the sum of the outputs, on a copy in training mode."""
    twin = copy.deepcopy(model).train()

    def step() -> None:
        outputs = [leaf for leaf in tree_leaves(twin(example_input)) if isinstance(leaf, Tensor) and leaf.requires_grad]
        torch.stack([leaf.sum() for leaf in outputs]).sum().backward()

    with torch.enable_grad(), torch.random.fork_rng():
        return count(step)


@contextmanager
def _no_fused_encoder() -> Iterator[None]:
    """The fused transformer-encoder path hides its products in one operation; without it they are all seen."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
