"""What a SMAUG forward costs, in closed form: contractions of each part, a multiply-add being 2 FLOPs."""

from __future__ import annotations

from naslab.search_spaces.common.costs import attention, block, linear, stack
from naslab.search_spaces.smaug.selector import joined_width
from naslab.search_spaces.smaug.settings import Settings, Sizes


def part_macs(sizes: Sizes, settings: Settings) -> dict[str, int]:
    """Multiply-adds of one sample by part of the pre-training forward in evaluation mode, the similarity apart."""
    tokens, frame = frame_macs(sizes, settings)
    kept = settings.frames_kept if settings.selects else settings.frames
    fusion = fusion_macs(sizes, kept * tokens)
    text, joint = text_macs(sizes), settings.text_masking == "joint"
    parts = {
        "vision": settings.frames * sizes.patches * sizes.patch_values * sizes.width + settings.encoded_frames * frame,
        "text": text,
        "projections": (sizes.width + sizes.text_width) * sizes.embedding_width,
        "vtm": 3 * (fusion + 2 * sizes.text_width),
        "mlm": 0,
        "mvm": 0,
        "selector": 0,
    }
    if settings.models_words:
        head = sizes.text_tokens * sizes.text_width * (sizes.text_width + sizes.vocabulary)
        parts["mlm"] = head + (0 if joint else text + fusion)
    if settings.models_pixels:
        parts["mvm"] = settings.encoded_frames * decoder_macs(sizes, settings, tokens)
    if settings.selects:
        hidden = joined_width(sizes.text_width)
        told = settings.frames * 2 * sizes.width * hidden + sizes.text_width * hidden
        pairs = told + settings.frames * hidden
        parts["selector"] = pairs
        if settings.selection == "after":
            # The pairs that are matched, the masked text's, and clips and texts once for the choice of all by all.
            parts["selector"] = (3 + int(settings.models_words and not joint)) * pairs + told
            parts["projections"] += (settings.frames - 1) * sizes.width * sizes.embedding_width
    return parts


def forward_flops(sizes: Sizes, settings: Settings, batch: int) -> int:
    """FLOPs of the pre-training forward of a batch."""
    similarity = sizes.embedding_width
    if settings.selects and settings.selection == "after":
        similarity += settings.frames * (sizes.embedding_width + joined_width(sizes.text_width))
    return 2 * (batch * sum(part_macs(sizes, settings).values()) + batch * batch * similarity)


def frame_macs(sizes: Sizes, settings: Settings) -> tuple[int, int]:
    """Tokens that leave the encoder per frame, and the multiply-adds of its blocks."""
    visible, reduction = settings.visible(sizes.patches), settings.reduction
    macs = reduction.macs(visible, sizes.depth, 1, sizes.width, sizes.heads, 4 * sizes.width)
    return reduction.schedule(visible, sizes.depth)[-1][1] + 1, macs


def text_macs(sizes: Sizes) -> int:
    """One pass of the text encoder."""
    width = sizes.text_width
    return stack([(sizes.text_tokens, sizes.text_tokens)] * sizes.text_layers, width, 4 * width)


def fusion_macs(sizes: Sizes, visual_tokens: int) -> int:
    """One pass of the fusion layers over a text and `visual_tokens` tokens."""
    words, width = sizes.text_tokens, sizes.text_width
    seen = 0 if sizes.width == width else linear(visual_tokens, sizes.width, width)
    layer = block(words, width, 4 * width) + attention(words, width, visual_tokens)
    return seen + sizes.fusion_layers * layer


def decoder_macs(sizes: Sizes, settings: Settings, tokens: int) -> int:
    """The decoder over one frame, of which `tokens` tokens were encoded."""
    width, patches = sizes.decoder_width, sizes.patches
    masked = patches - settings.visible(patches)
    return (
        linear(tokens, sizes.width, width)
        + stack([(patches, patches)] * settings.decoder_depth, width, 4 * width)
        + linear(masked, width, sizes.patch_values)
    )
