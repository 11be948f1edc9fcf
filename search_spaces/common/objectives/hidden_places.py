"""Where the hidden tokens of texts stand, and what stands there: a head over the vocabulary need not see the others.

Names: B texts, L tokens, M places, D width.
"""

from __future__ import annotations

from torch import Tensor

from naslab.search_spaces.data.text import IGNORED


def hidden_places(labels_BL: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Places (B, M) of each text's labelled tokens, in order, and their labels (B, M); IGNORED where a text has fewer.

    Args:
        most: M; None: as many as the text with the most has.
    """
    hidden = labels_BL != IGNORED
    most = int(hidden.sum(1).max()) if most is None else most
    places_BM = hidden.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return places_BM, labels_BL.gather(1, places_BM)


def at_places(values_BLD: Tensor, places_BM: Tensor) -> Tensor:
    """The values (B, M, D) at given places."""
    return values_BLD.gather(1, places_BM[..., None].expand(-1, -1, values_BLD.shape[-1]))
