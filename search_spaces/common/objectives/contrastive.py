"""Contrastive learning between texts and what they describe: the loss both ways, and which pairs are no negatives."""

from __future__ import annotations

from torch import Tensor

from naslab.search_spaces.common.objectives.float32 import in_float32


def same_text(ids_BL: Tensor) -> Tensor:
    """Which texts of a batch are equal, (B, B): a clip with another's very caption is no negative for it."""
    return (ids_BL[:, None] == ids_BL[None]).all(-1)


@in_float32
def contrastive_loss(similarity_BB: Tensor, same_BB: Tensor) -> Tensor:
    """Both directions of the cross-entropy between texts (rows) and videos (columns); equal texts share the target.

    Args:
        similarity_BB: cosines over the temperature.
        same_BB: see `same_text`; the identity where no texts are equal.
    """
    target = same_BB / same_BB.sum(1, keepdim=True)
    return (
        -((target * similarity_BB.log_softmax(1)).sum(1) + (target * similarity_BB.T.log_softmax(1)).sum(1)).mean() / 2
    )
