"""The closed cost of a masked autoencoder's forward.

What is counted is what is executed: the prediction runs on the decoded masked tokens alone, where published figures
have it on every token; that is below 0.2 % of a ViT-L.
"""

from __future__ import annotations

from naslab.search_spaces.common.costs import linear
from naslab.search_spaces.mae.model import Autoencoder


def forward_flops(model: Autoencoder, batch_size: int) -> int:
    """Contraction FLOPs (a multiply-add is 2) of one training forward on a batch; the model may lie on meta."""
    design, masking = model.design, model.design.masking
    leading = 0 if model.class_token is None else 1
    length, visible = masking.length, masking.visible
    encoded = (length if design.encoder_mask_tokens else visible) + leading
    predicted = length - visible if design.decoded is None else design.decoded
    in_decoder = leading + (length if design.decoded is None else visible + predicted)
    embedding = next(p for name, p in model.named_parameters() if name.endswith("_embed.weight"))
    width, narrow = design.encoder.width, design.decoder.width
    multiply_adds = (
        length * embedding.numel()
        + design.encoder.multiply_adds(encoded)
        + linear(encoded, width, narrow)
        + design.decoder.multiply_adds(in_decoder)
        + linear(predicted, narrow, model.head.out_features)
    )
    return 2 * batch_size * multiply_adds
