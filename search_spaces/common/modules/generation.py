"""What a network of transformers writes, whatever its checkpoint says of how."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import GenerationConfig

from naslab.search_spaces.data.text.pair_tokenizers import Ids


def generated(network: Any, ids: Ids, most: int, beams: int, **given: Tensor) -> Tensor:
    """At most `most` tokens, greedily or by beams and nothing else: no lengths, penalties or forced tokens of its own.

    Args:
        given: the inputs of transformers' `generate`, such as `input_ids`.
    """
    plain = GenerationConfig(
        max_new_tokens=most,
        do_sample=False,
        num_beams=beams,
        pad_token_id=ids.pad,
        eos_token_id=ids.end,
        bos_token_id=ids.begin,
        decoder_start_token_id=ids.begin,
    )
    kept, network.generation_config = network.generation_config, plain  # fills whatever another leaves open
    try:
        return network.generate(generation_config=plain, **given)  # type: ignore[no-any-return]
    finally:
        network.generation_config = kept
