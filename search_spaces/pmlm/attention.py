"""The block attention mask over text, originals and pseudo masks, and attention that skips masked blocks.

UniLMv2, figures 4 and 5. The text comes first, then M originals, then M pseudo masks. The text never looks behind
itself, so that its rows need no mask and their columns behind it are not worked out: nearly all that the block mask
rules out. Names: B texts, L tokens, M slots, T = L + 2 M, H heads, K width of a head.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

NAME = "pseudo_masked"
"""What transformers knows this attention by."""
UNSEEN = 1 << 30
"""Code of a key that nobody sees: padding, and empty slots."""


class Codes(NamedTuple):
    """Steps of queries and keys, (B, T) each: 0 for text, i for an original of step i, -i for a pseudo mask of it."""

    queries_BT: Tensor
    keys_BT: Tensor


def step_codes(real_BL: Tensor, steps_BM: Tensor) -> Codes:
    """Codes of a text and the slots behind it.

    Args:
        real_BL: which tokens of the text are no padding.
        steps_BM: step of each slot, 0 where it is empty.
    """
    text_BL = torch.zeros_like(real_BL, dtype=torch.long)
    empty_BM = steps_BM == 0
    keys = [text_BL.masked_fill(~real_BL, UNSEEN), *(s.masked_fill(empty_BM, UNSEEN) for s in (steps_BM, -steps_BM))]
    return Codes(torch.cat([text_BL, steps_BM, -steps_BM], 1), torch.cat(keys, 1))


def visible(queries_BQ: Tensor, keys_BK: Tensor) -> Tensor:
    """Which keys (B, Q, K) each query sees, by their codes.

    Text sees text. An original sees text and originals up to its own step. A pseudo mask sees text, originals before
    its step, and the pseudo masks of its step.
    """
    queries, keys = queries_BQ[..., :, None], keys_BK[..., None, :]
    reach = torch.where(queries < 0, -queries - 1, queries)
    return torch.where(keys < 0, keys == queries, keys <= reach)


def pseudo_masked_attention(
    module: nn.Module,
    query_BHTK: Tensor,
    key_BHTK: Tensor,
    value_BHTK: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    text_mask: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of the text to itself, and of the slots to everything, as transformers calls it; (B, T, H, K).

    Args:
        attention_mask: of the slots alone, (B, 1 or H, 2 M, T), True or False or to be added; None: no slots.
        text_mask: of the text, (B, 1 or H, 1 or L, L); None: it sees all of itself.
    """
    length = query_BHTK.shape[2] - (0 if attention_mask is None else attention_mask.shape[2])
    attend = partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
    query, key, value = (part[:, :, :length] for part in (query_BHTK, key_BHTK, value_BHTK))
    seen = [attend(query, key, value, attn_mask=_like(text_mask, query_BHTK))]
    if attention_mask is not None:
        mask = _like(attention_mask, query_BHTK)
        seen.append(attend(query_BHTK[:, :, length:], key_BHTK, value_BHTK, attn_mask=mask))
    return torch.cat(seen, 2).transpose(1, 2).contiguous(), None


def _like(mask: Tensor | None, query: Tensor) -> Tensor | None:
    return mask if mask is None or mask.dtype == torch.bool else mask.to(query.dtype)


AttentionInterface.register(NAME, pseudo_masked_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
