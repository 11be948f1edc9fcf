"""Every kernel compiled for four GPUs that are not there: registers, shared memory, and no spilling."""

import importlib
from dataclasses import dataclass

import pytest
from binaries import TARGETS, compiled, parse

from naslab.kernels._triton import Launch

pytest.importorskip("triton")


@dataclass(frozen=True)
class Built:
    """A kernel at a tuned configuration, and the registers per thread that it may take, with Triton 3.6 to 3.9."""

    kernel: object
    launches: dict
    pointers: str
    integers: str
    constants: dict
    limit: int
    fp32: str = ""
    floats: str = ""
    int64: str = ""
    int32: str = ""
    shared_bytes: int = 48 * 1024


ALTUP = importlib.import_module("naslab.kernels.altup")
BUILT = {
    "altup_forward": Built(
        ALTUP.altup_forward, ALTUP.FORWARD, "x_ptr y_ptr p_ptr g_ptr new_ptr", "tokens width token_stride",
        {"STREAMS": 4, "ACTIVE": 0}, 128,
    ),
    "altup_backward": Built(
        ALTUP.altup_backward, ALTUP.BACKWARD, "grad_ptr x_ptr y_ptr p_ptr g_ptr dx_ptr dy_ptr products_ptr",
        "tokens width token_stride",
        {"STREAMS": 4, "ACTIVE": 0, "PER_TOKEN": True, "STREAM_GRADS": True, "LAYER_GRAD": True, "PRODUCTS": True}, 128,
        fp32="products_ptr",
    ),
}  # fmt: skip
MIXED = importlib.import_module("naslab.kernels.mixed_activation")
STATISTICS = "mixing_ptr scale_ptr shift_ptr mean_ptr variance_ptr dscale_ptr dshift_ptr partial_ptr"
BUILT |= {
    name: Built(
        getattr(MIXED, name), launches, "x_ptr grad_ptr out_ptr dx_ptr", "batch width row_stride columns share",
        {"NUM": 4, "CODES": 0b11100100, "TRAINING": True}, limit, fp32=STATISTICS, floats="epsilon",
    )
    for name, launches, limit in (
        ("batch_statistics", MIXED.STATISTICS, 128), ("join_statistics", {"any": Launch(256)}, 64),
        ("mixed_reductions", MIXED.REDUCED, 176), ("mixed_forward", MIXED.LAUNCH, 144),
        ("mixed_backward", MIXED.LAUNCH, 128),
    )
}  # fmt: skip

PATCH = importlib.import_module("naslab.kernels.patch_loss")
LARGEST = {"any": Launch(0, num_warps=PATCH.MOST_PIXELS // (32 * PATCH.LANES))}
BUILT |= {
    f"{name}{extra}": Built(
        getattr(PATCH, name), launches, "predicted_ptr out_ptr", "num_masked channels height width",
        {"SIZE": size, "NORMALISED": True, "EPSILON": 1e-6, "BLOCK": block}, 64, "grad_ptr images_ptr losses_ptr",
        floats="factor", int64="masked_ptr",
    )
    for name in ("patch_loss_forward", "patch_loss_backward")
    for extra, launches, size, block in (
        ("", PATCH.LAUNCH, 16, 1024), (" of the largest patches", LARGEST, 32, PATCH.MOST_PIXELS),
    )
}  # fmt: skip

DISTILL = importlib.import_module("naslab.kernels.distill_kl")
BUILT |= {
    name: Built(
        getattr(DISTILL, name), DISTILL.LAUNCH, "logits_ptr expert_ptr dlogits_ptr", "vocabulary", {}, limit,
        fp32="grad_ptr losses_ptr lse_ptr expert_lse_ptr",
    )
    for name, limit in {"distill_kl_forward": 128, "distill_kl_backward": 96}.items()
}  # fmt: skip

MASK, GATHER = (importlib.import_module(f"naslab.kernels.token_{name}") for name in ("mask", "gather"))
TOKENS = "tokens_ptr positions_ptr out_ptr grad_ptr dtokens_ptr mask_token_ptr"
BUILT |= {
    kernel.name: Built(
        kernel, launches, TOKENS, "batch length visible width share",
        {"POSITIONS": True, "TOKENS": True, "MASK": True}, limit, fp32="noise_ptr dmask_ptr dpositions_ptr",
        int64="visible_ptr masked_ptr rank_ptr",
    )
    for kernel, launches, limit in (
        (MASK.rank_tokens, MASK.RANKED, 128), (GATHER.gather_forward, GATHER.LAUNCH, 40),
        (GATHER.restore_forward, GATHER.LAUNCH, 40), (GATHER.gather_backward, GATHER.BACKWARD, 96),
        (GATHER.restore_backward, GATHER.BACKWARD, 96),
    )
}  # fmt: skip

SCORES = importlib.import_module("naslab.kernels.class_scores")
STRIDES = "heads tokens width batch_stride head_stride token_stride"
BUILT |= {
    name: Built(
        getattr(SCORES, name), SCORES.AVERAGED if name == "class_average" else SCORES.LAUNCH,
        "query_ptr keys_ptr dquery_ptr dkeys_ptr", STRIDES, {"QUERY_GRAD": True, "KEYS_GRAD": True}, limit,
        fp32="grad_ptr logits_ptr logsumexp_ptr scores_ptr", floats="scale",
    )
    for name, limit in {"class_logits": 160, "class_average": 32, "class_scores_backward": 128}.items()
}  # fmt: skip

SELECT = importlib.import_module("naslab.kernels.token_select")
BUILT |= {
    name: Built(
        getattr(SELECT, name), SELECT.FUSED if name == "fuse_rows" else SELECT.MOVED,
        "tokens_ptr out_ptr grad_ptr dtokens_ptr", "tokens prefix kept dropped scored width out_rows",
        {"FUSE": True, "TOKENS": True, "SCORES": True}, limit,
        fp32="scores_ptr dscores_ptr", int64="kept_ptr dropped_ptr rank_ptr",
    )
    for name, limit in {"select_rows": 40, "fuse_rows": 128, "select_backward": 64}.items()
}  # fmt: skip

MATCH, MERGE = (importlib.import_module(f"naslab.kernels.token_{name}") for name in ("match", "merge"))
BUILT |= {
    kernel.name: Built(
        kernel, launches, "metric_ptr tokens_ptr rows_ptr out_ptr", "tokens rows merged width protected",
        {"MEAN": True, "DEPTH": 16}, limit, fp32="best_ptr sizes_ptr merged_ptr",
        int64="partner_ptr kept_ptr sources_ptr targets_ptr row_ptr", int32="next_ptr",
    )
    for kernel, launches, limit in (
        (MATCH.match_tokens, MATCH.LAUNCH, 168), (MERGE.chain_sources, MERGE.CHAINED, 168),
        (MERGE.collect_rows, MERGE.COLLECTED, 48), (MERGE.spread_rows, MERGE.SPREAD, 40),
    )
}  # fmt: skip

CONTRASTIVE = importlib.import_module("naslab.kernels._similarity_tiles")
NT_XENT = importlib.import_module("naslab.kernels.nt_xent")
SMALL = {"CHUNK": 64, "CHUNKS": 1, "PRECISION": "tf32x3", "STAGES": CONTRASTIVE.STAGES}
WIDE = SMALL | {"CHUNK": 128, "CHUNKS": 2}
ROWS = "a_ptr b_ptr z_ptr"
BUILT |= {
    f"{kernel.name}{extra}{kind}": Built(
        kernel, launches, "" if kind == " in float32" else ROWS,
        "num_rows num_columns half width share", constants | options, 304,
        fp32="lse_ptr of_positive_ptr mean_ptr dz_ptr " + (ROWS if kind == " in float32" else ""), floats="scale",
        shared_bytes=72 * 1024,
    )
    for kernel, extra, options in (
        (CONTRASTIVE.contrast_forward, "", {"EXCLUDE": True, "ATTEND": False}),
        (CONTRASTIVE.contrast_forward, " with the mean", {"EXCLUDE": False, "ATTEND": True}),
        (NT_XENT.nt_xent_backward, "", {}),
    )
    for kind, launches, constants in (
        ("", CONTRASTIVE.LAUNCH, WIDE | {"CHUNKS": 1}),
        (" of wide rows", CONTRASTIVE.SMALL, WIDE),
        (" in float32", CONTRASTIVE.SMALL, SMALL | {"CHUNKS": 2}),
    )
}  # fmt: skip

COSINE = importlib.import_module("naslab.kernels.negative_cosine")
BUILT |= {
    name: Built(
        getattr(COSINE, name), COSINE.LAUNCH, "p_ptr z_ptr dp_ptr grad_ptr", "rows width", {"EPSILON": 1e-8}, 64,
        fp32="kept_ptr",
    )
    for name in ("cosine_forward", "cosine_backward")
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", BUILT)
def test_it_fits(name, target):
    built = BUILT[name]
    family = "gfx" if target.startswith("gfx") else "any"
    launch = built.launches.get(target) or built.launches.get(family) or built.launches["any"]
    types, integers, floats, constants = arguments(built, launch, target)
    binary = compiled(built.kernel, types, integers, floats, launch.num_warps, target, **constants)
    print(f"{name} {target}: {binary}")
    assert binary.spills == 0
    assert binary.registers <= built.limit
    assert binary.shared_bytes <= built.shared_bytes


@pytest.mark.parametrize("name", BUILT)
def test_each_integer_may_be_one(name):
    """Triton compiles an argument of 1 into the kernel as a Python constant, which has no methods."""
    built = BUILT[name]
    types, integers, floats, constants = arguments(built, built.launches["any"], "sm_90")
    assert integers
    for one in integers:
        parse(built.kernel, types, integers, floats, **constants, **{one: 1})
    parse(built.kernel, types, integers, floats, **constants, **dict.fromkeys(integers, 1))


def arguments(built, launch, target):
    """Pointers with their types, names of integers and of floats, and constants of a kernel."""
    names = built.kernel.jitted.arg_names
    types = dict.fromkeys(built.pointers.split(), "bf16")
    types |= dict.fromkeys(built.fp32.split(), "fp32") | dict.fromkeys(built.int64.split(), "i64")
    types |= dict.fromkeys(built.int32.split(), "i32")
    constants = {"BLOCK": launch.block, "ROWS": launch.rows} | built.constants
    if target.startswith("gfx") and "PRECISION" in constants:
        constants["PRECISION"] = "ieee"
    types, constants = ({k: v for k, v in given.items() if k in names} for given in (types, constants))
    integers, floats = ([k for k in given.split() if k in names] for given in (built.integers, built.floats))
    return types, integers, floats, constants
