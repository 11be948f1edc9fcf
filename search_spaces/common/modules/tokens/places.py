"""Where the tokens that are left came from, so that a decoder can put them back.

Names: F samples, L places, K of them in use.
"""

from __future__ import annotations

import torch
from torch import Tensor

from naslab.kernels import TokenMask, token_mask


def nothing_masked(tokens_FLD: Tensor) -> TokenMask:
    """The mask of samples of which every token is visible, in order."""
    samples, length = tokens_FLD.shape[:2]
    places = torch.arange(length, device=tokens_FLD.device).expand(samples, length)
    return TokenMask(places, places[:, :0], places)


def mask_at(places_FK: Tensor, length: int) -> TokenMask:
    """The mask over `length` places whose visible tokens are those at the given places, in the given order."""
    kept = places_FK.shape[1]
    order = torch.arange(-kept, 0, device=places_FK.device, dtype=torch.float32).expand_as(places_FK)
    noise = torch.ones(len(places_FK), length, device=places_FK.device).scatter(1, places_FK, order)
    return token_mask(noise, kept)


def kept_places(places_FK: Tensor, chosen_FK: Tensor, fused: int | None) -> Tensor:
    """Places after a selection; a fused token stands at the place `fused`."""
    kept = places_FK.gather(1, chosen_FK)
    return kept if fused is None else torch.cat([kept, torch.full_like(kept[:, :1], fused)], 1)
