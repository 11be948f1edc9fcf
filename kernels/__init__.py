"""The performance-critical operations of the spaces, one file each."""

from naslab.kernels.altup import altup
from naslab.kernels.class_scores import class_scores
from naslab.kernels.distill_kl import distill_kl
from naslab.kernels.feature_pool import feature_pool
from naslab.kernels.info_nce import info_nce
from naslab.kernels.mixed_activation import ACTIVATIONS, Mixed, mixed_activation
from naslab.kernels.negative_cosine import negative_cosine
from naslab.kernels.nt_xent import nt_xent
from naslab.kernels.patch_loss import patch_loss
from naslab.kernels.token_gather import gather_visible, restore_tokens
from naslab.kernels.token_mask import TokenMask, token_mask
from naslab.kernels.token_match import Matching, bipartite_match
from naslab.kernels.token_merge import merge_tokens, unmerge_tokens
from naslab.kernels.token_select import Selected, select_tokens

__all__ = [
    "ACTIVATIONS",
    "Matching",
    "Mixed",
    "Selected",
    "TokenMask",
    "altup",
    "bipartite_match",
    "class_scores",
    "distill_kl",
    "feature_pool",
    "gather_visible",
    "info_nce",
    "merge_tokens",
    "mixed_activation",
    "negative_cosine",
    "nt_xent",
    "patch_loss",
    "restore_tokens",
    "select_tokens",
    "token_mask",
    "unmerge_tokens",
]
