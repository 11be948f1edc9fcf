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
    length, visible, leading = masking.length, masking.visible, model.leading
    encoded = (length if design.encoder_mask_tokens else visible) + leading
    _, own_class_token = model.class_tokens()
    rebuilt = length - visible if design.cell is None else design.cell.predicted + design.cell.spare
    embedding = next(p for name, p in model.named_parameters() if name.endswith("_embed.weight"))
    width, narrow = design.encoder.width, design.decoder.width
    multiply_adds = (
        length * embedding.numel()
        + design.encoder.multiply_adds(encoded)
        + linear(encoded if own_class_token is None else encoded - leading, width, narrow)
        + design.decoder.multiply_adds(leading + visible + rebuilt)
        + linear(design.predicted, narrow, model.head.out_features)
    )
    return 2 * batch_size * multiply_adds
