"""What a SMAUG forward costs, in closed form: contractions of each part, a multiply-add being 2 FLOPs."""

from __future__ import annotations

from transformers import BertConfig

from naslab.search_spaces.common.costs import attention, block, linear, stack
from naslab.search_spaces.smaug.design import Design
from naslab.search_spaces.smaug.options import SMAUGOptions
from naslab.search_spaces.smaug.selector import joined_width


def part_macs(sizes: SMAUGOptions, bert: BertConfig, design: Design) -> dict[str, int]:
    """Multiply-adds of one sample by part of the pre-training forward in evaluation mode, the similarity apart."""
    tokens, frame = frame_macs(sizes, design)
    words, text_width = sizes.text_tokens, bert.hidden_size
    kept = design.frames_kept if design.selects else design.frames
    text = stack([(words, words)] * (bert.num_hidden_layers - sizes.fusion_layers), text_width, bert.intermediate_size)
    fusion, joint = fusion_macs(sizes, bert, kept * tokens), design.text_masking == "joint"
    parts = {
        "vision": design.frames * linear(sizes.patches, sizes.patch_values, sizes.width)
        + design.encoded_frames * frame,
        "text": text,
        "projections": (sizes.width + text_width) * sizes.embedding_width,
        "vtm": 3 * (fusion + 2 * text_width),
    }
    if design.models_words:
        head = linear(words, text_width, text_width + bert.vocab_size)
        parts["mlm"] = head + (0 if joint else text + fusion)
    if design.models_pixels:
        parts["mvm"] = design.encoded_frames * decoder_macs(sizes, design, tokens)
    if design.selects:
        hidden = joined_width(text_width)
        told = linear(design.frames, 2 * sizes.width, hidden) + text_width * hidden
        pairs = told + design.frames * hidden
        parts["selector"] = pairs
        if design.selection == "after":
            # The pairs that are matched, the masked text's, and clips and texts once for the choice of all by all.
            parts["selector"] = (3 + int(design.models_words and not joint)) * pairs + told
            parts["projections"] += (design.frames - 1) * sizes.width * sizes.embedding_width
    return parts


def forward_flops(sizes: SMAUGOptions, bert: BertConfig, design: Design, batch: int) -> int:
    """FLOPs of the pre-training forward of a batch."""
    similarity = sizes.embedding_width
    if design.selects and design.selection == "after":
        similarity += design.frames * (sizes.embedding_width + joined_width(bert.hidden_size))
    return 2 * (batch * sum(part_macs(sizes, bert, design).values()) + batch * batch * similarity)


def frame_macs(sizes: SMAUGOptions, design: Design) -> tuple[int, int]:
    """Tokens that leave the encoder per frame, and the multiply-adds of its blocks."""
    visible, reduction = design.visible(sizes.patches), design.reduction(sizes.depth)
    macs = reduction.macs(visible, sizes.depth, 1, sizes.width, sizes.heads, 4 * sizes.width)
    return reduction.schedule(visible, sizes.depth)[-1][1] + 1, macs


def fusion_macs(sizes: SMAUGOptions, bert: BertConfig, visual_tokens: int) -> int:
    """One pass of the fusion layers over a text and `visual_tokens` tokens."""
    words, width = sizes.text_tokens, bert.hidden_size
    seen = 0 if sizes.width == width else linear(visual_tokens, sizes.width, width)
    layer = block(words, width, bert.intermediate_size) + attention(words, width, visual_tokens)
    return seen + sizes.fusion_layers * layer


def decoder_macs(sizes: SMAUGOptions, design: Design, tokens: int) -> int:
    """The decoder over one frame, of which `tokens` tokens were encoded."""
    width, patches = sizes.decoder_width, sizes.patches
    masked = patches - design.visible(patches)
    return (
        linear(tokens, sizes.width, width)
        + stack([(patches, patches)] * design.decoder_depth, width, 4 * width)
        + linear(masked, width, sizes.patch_values)
    )
