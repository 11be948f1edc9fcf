"""Every operation with inputs of many sizes: what the shared tests of this folder run over.

A new operation adds a Case, and is held to the same rules as the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from naslab.kernels import (
    ACTIVATIONS,
    Matching,
    TokenMask,
    altup,
    bipartite_match,
    class_scores,
    distill_kl,
    feature_pool,
    gather_visible,
    info_nce,
    merge_tokens,
    mixed_activation,
    negative_cosine,
    nt_xent,
    patch_loss,
    restore_tokens,
    select_tokens,
    token_mask,
    unmerge_tokens,
)

SIZES = (1, 63, 100, 1000)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """`inputs(size)` makes float64 tensors for `function`; the gradients of those in `exact` (integers) are not asked.

    `tolerance` is the relative norm of the error allowed in float32.
    """

    function: Callable[..., Tensor]
    inputs: Callable[[int], tuple[Tensor, ...]]
    tolerance: float = 2e-6

    def made(self, size: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
        """Leaves for one run, the same numbers in every dtype that can hold them (bfloat16)."""
        torch.manual_seed(seed + size)
        return tuple(t.bfloat16().to(dtype).requires_grad_() if t.is_floating_point() else t for t in self.inputs(size))


def statistics_like(scale: Tensor) -> tuple[Tensor, Tensor]:
    """A fixed mean and variance of its shape."""
    ramp = (
        (torch.arange(scale.numel(), device=scale.device).remainder(8) / 8 + 0.25).to(scale.dtype).reshape(scale.shape)
    )
    return ramp - 1, ramp


def scattered(count: int, like: Tensor) -> Tensor:
    """Fixed numbers of -1 to 1 on the device of another tensor, exact in bfloat16: every compiler makes the same.

    Inductor counts in 32 bits on a GPU and leaves out roundings to bfloat16: nothing here overflows or is rounded.
    """
    each = torch.arange(count, device=like.device).remainder(255)
    return ((each * each * 37 + each * 11).remainder(255) - 127) / 128


def images_for(predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Fixed images of 3 x 20 x 28 pixels, and masked patches of side 4 (some twice), for (B, M, 48) predictions."""
    b, m = predicted.shape[:2]
    images = scattered(b * 3 * 20 * 28, predicted).reshape(b, 3, 20, 28)
    masked = (torch.arange(b * m, device=predicted.device) * 17 + 5).remainder(35).reshape(b, m)
    return images.to(predicted.dtype), masked


def mask_for(like: Tensor, batch: int, length: int, visible: int) -> TokenMask:
    """A fixed mask on the device of another tensor."""
    each = torch.arange(batch * length, device=like.device).remainder(4093)
    return token_mask((each * 1567).remainder(4093).float().reshape(batch, length), visible)  # no two alike in a row


def ranked_scores(like: Tensor, batch: int, scored: int) -> Tensor:
    """Fixed scores with wide gaps, so that every dtype ranks them alike."""
    each = torch.arange(batch * scored, dtype=torch.float64, device=like.device).reshape(batch, scored)
    return (each * 7 + 3).remainder(11) / 16 + torch.arange(scored, device=like.device) / 2**12


def select_fused(tokens: Tensor, scores: Tensor) -> Tensor:
    """The best three of seven behind two without a score, the others fused; inputs rank alike in every dtype."""
    return select_tokens(tokens, scores, 3).tokens


def matching_for(like: Tensor, batch: int, tokens: int, protected: int = 1) -> Matching:
    """A fixed matching that merges a third of the tokens, at most 40, several into one."""
    angle = torch.arange(batch * tokens, dtype=torch.float64, device=like.device).reshape(batch, tokens) ** 1.7
    metric = torch.stack([angle.sin(), angle.cos() + 2], 2)
    return bipartite_match(metric, min(tokens // 3, 40, (tokens - protected) // 2), protected)


def merged(tokens: Tensor) -> Tensor:
    """Merged by a fixed matching, the tokens standing for 1, 2, 3, ... others."""
    batch, length = tokens.shape[:2]
    count = torch.arange(1, batch * length + 1, dtype=tokens.dtype, device=tokens.device)
    sizes = count.reshape(batch, length).remainder(5) + 1
    return merge_tokens(tokens, sizes, matching_for(tokens, batch, length))[0]


def rows_like(tensor: Tensor, rows: int) -> Tensor:
    """Fixed rows of its width and dtype."""
    return scattered(rows * tensor.shape[1], tensor).reshape(rows, tensor.shape[1]).to(tensor.dtype)


CASES: dict[str, Case] = {
    "altup": Case(
        lambda x, y, p, g: altup(x, y, p, g, active=1),
        lambda n: (normal(2, n, 9), normal(n, 9), normal(2, 2), normal(2)),
    ),
    "altup of every token": Case(
        lambda x, y, p, g: altup(x, y, p, g, active=0),
        lambda n: (normal(3, 2, 5, n), normal(2, 5, n), normal(2, 5, 3, 3), normal(2, 5, 3)),
    ),
    "mixed_activation": Case(
        lambda x, w, a, b: mixed_activation(x, w, a, b, tuple(ACTIVATIONS)).output,
        lambda n: (normal(n if n != 1 else 2, 4, 70), normal(4), normal(4, 70), normal(4, 70)),
        tolerance=5e-6,
    ),
    "mixed_activation in evaluation": Case(
        lambda x, w, a, b: mixed_activation(x, w, a, b, ("elu", "relu"), statistics_like(a)).output,
        lambda n: (normal(5, 2, n), normal(2), normal(2, n), normal(2, n)),
        tolerance=5e-6,
    ),
    "feature_pool by maximum": Case(lambda x: feature_pool(x, "maxpool"), lambda n: (normal(n, 70),)),
    "feature_pool by mean": Case(lambda x: feature_pool(x, "avgpool"), lambda n: (normal(5, n),)),
    "patch_loss": Case(
        lambda predicted: patch_loss(predicted, *images_for(predicted), patch_size=4),
        lambda n: (normal(2, n, 48),),
    ),
    "patch_loss of raw pixels": Case(
        lambda predicted: patch_loss(predicted, *images_for(predicted), patch_size=4, normalised=False),
        lambda n: (normal(1, n, 48),),
    ),
    "distill_kl": Case(
        lambda logits: distill_kl(logits, rows_like(logits, logits.shape[0])),
        lambda n: (normal(5, n),),
        tolerance=5e-6,
    ),
    "distill_kl of many rows": Case(
        lambda logits: distill_kl(logits, 4 * rows_like(logits, logits.shape[0])),
        lambda n: (normal(n, 37),),
        tolerance=5e-6,
    ),
    "gather_visible": Case(
        lambda tokens, positions: gather_visible(tokens, mask_for(tokens, 2, 7, 3), positions),
        lambda n: (normal(2, 7, n), normal(7, n)),
    ),
    "gather_visible of a long sequence": Case(
        lambda tokens: gather_visible(tokens, mask_for(tokens, 2, tokens.shape[1], tokens.shape[1] // 4)),
        lambda n: (normal(2, n, 5),),
    ),
    "restore_tokens": Case(
        lambda visible, token, positions: restore_tokens(visible, mask_for(visible, 2, 7, 3), token, positions),
        lambda n: (normal(2, 3, n), normal(n), normal(7, n)),
    ),
    "restore_tokens without positions": Case(
        lambda visible, token: restore_tokens(
            visible, mask_for(visible, 2, 2 * visible.shape[1], visible.shape[1]), token
        ),
        lambda n: (normal(2, n, 5), normal(5)),
    ),
    "class_scores": Case(
        lambda query, keys: class_scores(query, keys, 0.3),
        lambda n: (normal(2, 3, 17), normal(2, 3, n + 1, 17)),
    ),
    "class_scores of wide heads, strided": Case(
        lambda query, keys: class_scores(query, keys.unbind(2)[1].transpose(1, 2), 0.1, skip=2),
        lambda n: (normal(2, 3, n), normal(2, 5, 2, 3, n)),
    ),
    "select_tokens and fuse": Case(
        select_fused,
        lambda n: (normal(2, 9, n), normal(2, 7).abs() / 8),
    ),
    "select_tokens of a long sequence": Case(
        lambda tokens: (
            select_tokens(tokens, ranked_scores(tokens, 2, tokens.shape[1]), tokens.shape[1] // 2, False).tokens
        ),
        lambda n: (normal(2, n, 5),),
    ),
    "merge_tokens": Case(merged, lambda n: (normal(2, 9, n),)),
    "merge_tokens of a long sequence": Case(merged, lambda n: (normal(1, n + 1, 5),)),
    "unmerge_tokens": Case(
        lambda rows: unmerge_tokens(rows, matching_for(rows, 2, 9)),
        lambda n: (normal(2, 6, n),),
    ),
    "nt_xent": Case(
        lambda a, b: nt_xent(a, b, 0.5),
        lambda n: (normal(-(-n // 3), 19), normal(-(-n // 3), 19)),
        tolerance=5e-6,
    ),
    "nt_xent of wide rows": Case(
        lambda a, b: nt_xent(a, b, 0.2),
        lambda n: (normal(7, n), normal(7, n)),
        tolerance=5e-6,
    ),
    "info_nce": Case(
        lambda query, key: info_nce(query, key, rows_like(query, 300), 0.7),
        lambda n: (normal(n, 10), normal(n, 10)),
        tolerance=5e-6,
    ),
    "info_nce of a long queue of wide rows": Case(
        lambda query, key: info_nce(query, key, rows_like(query, query.shape[1] + 7), 0.7),
        lambda n: (normal(6, n) / max(n, 1) ** 0.5, normal(6, n) / max(n, 1) ** 0.5),
        tolerance=5e-6,
    ),
    "negative_cosine": Case(
        lambda p: negative_cosine(p, rows_like(p, p.shape[0])),
        lambda n: (normal(5, n),),
    ),
    "negative_cosine of many rows": Case(
        lambda p: negative_cosine(p, rows_like(p, p.shape[0])),
        lambda n: (normal(n, 11),),
    ),
}


def spread(tensor: Tensor) -> Tensor:
    """The same numbers, no two of them neighbours."""
    return torch.stack([tensor, torch.full_like(tensor, float("nan"))], -1)[..., 0]


def turned(tensor: Tensor) -> Tensor:
    """The same numbers, the last two dimensions the other way round in memory."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if tensor.ndim > 1 else tensor


def offset(tensor: Tensor) -> Tensor:
    """The same numbers behind an offset that no vector load likes."""
    padded = torch.nn.functional.pad(tensor, (1, 0))
    return padded[..., 1:]


LAYOUTS = {"contiguous": lambda tensor: tensor, "spread": spread, "turned": turned, "offset": offset}


def outcome(case: Case, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The result and the gradients of all inputs under a fixed random direction."""
    result = case.function(*inputs)
    torch.manual_seed(7)
    direction = torch.randn(result.shape, dtype=torch.float64).to(result)
    leaves = [t for t in inputs if t.requires_grad]
    return [result, *(torch.autograd.grad(result, leaves, direction) if result.requires_grad else ())]


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float, context: Any = "") -> None:
    """Relative norm of the error of each tensor; absolute where the expected norm is below one."""
    for n, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == e.shape, (context, n, a.shape, e.shape)
        assert not a.isnan().any(), (context, n)
        error = (a.double() - e.double()).norm() / e.double().norm().clamp(min=1)
        assert error <= tolerance, (context, n, float(error))
