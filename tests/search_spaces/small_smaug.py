"""A small space of SMAUG, and settings that differ from its reference."""

from naslab.search_spaces import find_space

SMALL = {
    "image_size": 16, "patch_size": 4, "clip_frames": 4, "width": 24, "depth": 4, "heads": 2, "vocabulary": 40,
    "text_tokens": 8, "embedding_width": 8, "decoder_width": 16, "decoder_heads": 2, "answers": 5,
}  # fmt: skip
DENSE = {"visual_masking_ratio": 0.0, "keep_rate": 1.0, "frames_kept": 4}
VARIANTS = (
    {},
    DENSE,
    {**DENSE, "text_masking_ratio": 0.0},
    {"rule": "tome"},
    {"fuse": False},
    {"selection": "before"},
    {"selection": "before", "estimator": "perturbed"},
    {"estimator": "perturbed", "decoder_depth": 2},
    {"text_masking": "joint", "mvm_weight": 0.0},
    {"frames": 2, "frames_kept": 1, "sparsify_layers": "half"},
)


def space(**options):
    return find_space("smaug", "tiny", {**SMALL, **options})
