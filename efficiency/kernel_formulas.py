"""The formulas of the operations in `kernels`, so that counts cover them: each file states its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from naslab.efficiency.work import Call, Formula, Work, free

altup = importlib.import_module("naslab.kernels.altup")
class_scores = importlib.import_module("naslab.kernels.class_scores")
distill_kl = importlib.import_module("naslab.kernels.distill_kl")
feature_pool = importlib.import_module("naslab.kernels.feature_pool")
info_nce = importlib.import_module("naslab.kernels.info_nce")
mixed_activation = importlib.import_module("naslab.kernels.mixed_activation")
negative_cosine = importlib.import_module("naslab.kernels.negative_cosine")
nt_xent = importlib.import_module("naslab.kernels.nt_xent")
patch_loss = importlib.import_module("naslab.kernels.patch_loss")
token_gather = importlib.import_module("naslab.kernels.token_gather")
token_match = importlib.import_module("naslab.kernels.token_match")
token_merge = importlib.import_module("naslab.kernels.token_merge")
token_select = importlib.import_module("naslab.kernels.token_select")


def _altup(backward: bool) -> Callable[[Call], Work]:
    return lambda call: Work(pointwise=altup.flops(*call.shape("x"), backward=backward))


def _mixed_activation(backward: bool) -> Callable[[Call], Work]:
    return lambda call: Work(pointwise=mixed_activation.flops(*call.shape("x"), backward=backward))


def _feature_pool(backward: bool) -> Callable[[Call], Work]:
    def formula(call: Call) -> Work:
        return Work(pointwise=feature_pool.flops(*call.shape("x"), call.arguments["maximum"], backward=backward))

    return formula


def _patch_loss(backward: bool) -> Callable[[Call], Work]:
    def formula(call: Call) -> Work:
        batch, masked, pixels = call.shape("predicted")
        return Work(pointwise=patch_loss.flops(batch * masked, pixels, backward=backward))

    return formula


def _distill_kl(backward: bool) -> Callable[[Call], Work]:
    return lambda call: Work(pointwise=distill_kl.flops(*call.shape("logits"), backward=backward))


def _nt_xent(backward: bool) -> Callable[[Call], Work]:
    def formula(call: Call) -> Work:
        rows, width = call.shape("z")
        return Work(nt_xent.contraction_flops(rows, width, backward), nt_xent.pointwise_flops(rows, backward))

    return formula


def _info_nce(call: Call) -> Work:
    (rows, width), keys = call.shape("query"), call.shape("queue")[0]
    products = info_nce.contraction_flops(rows, keys, width, call.arguments["attend"])
    return Work(products, info_nce.pointwise_flops(rows, keys, width))


def _info_nce_backward(call: Call) -> Work:
    """The gradients of query and key from what the forward kept: 3 FLOPs an element and 1."""
    of_query, of_key = call.arguments["needed"]
    return Work(pointwise=(3 * of_query + of_key) * call.arguments["query"].numel())


def _negative_cosine(backward: bool) -> Callable[[Call], Work]:
    return lambda call: Work(pointwise=negative_cosine.flops(*call.shape("p"), backward=backward))


def _ranked(call: Call) -> Work:
    batch, length = call.shape("noise")
    return Work(pointwise=batch * length * length)


def _moved(rows: str) -> Callable[[Call], Work]:
    """Tokens moved, as many as `rows` has entries, with positions added or summed."""

    def formula(call: Call) -> Work:
        width = call.shape("tokens")[2]
        moved = call.arguments[rows].numel()
        return Work(pointwise=token_gather.flops(moved, width, len(call.arguments["positions"]) > 0))

    return formula


def _class_scores(backward: bool) -> Callable[[Call], Work]:
    def formula(call: Call) -> Work:
        batch, heads, tokens, width = call.shape("keys")
        # The softmax, its mean over heads, and its gradient.
        pointwise = (8 if backward else 6) * batch * heads * tokens
        return Work(class_scores.flops(batch, heads, tokens, width, backward=backward), pointwise)

    return formula


def _selected(backward: bool) -> Callable[[Call], Work]:
    def formula(call: Call) -> Work:
        dropped, width = call.arguments["dropped"].numel(), call.shape("tokens")[2]
        return Work(pointwise=token_select.flops(dropped, width, call.arguments["fuse"], backward=backward))

    return formula


def _matched(call: Call) -> Work:
    return Work(token_match.match_flops(*call.shape("metric")))


def _merged(tokens: str) -> Callable[[Call], Work]:
    return lambda call: Work(pointwise=token_merge.flops(call.arguments["sources"].numel(), call.shape(tokens)[2]))


def _both_ways(name: str, formula: Callable[[bool], Formula]) -> dict[str, Formula]:
    return {f"naslab::{name}": formula(False), f"naslab::{name}_backward": formula(True)}


KERNELS: dict[str, Formula] = {
    "naslab::token_mask": _ranked,
    "naslab::token_match": _matched,
    "naslab::token_unmerge": free,
    "naslab::token_unmerge_backward": _merged("merged"),
    "naslab::info_nce": _info_nce,
    "naslab::info_nce_backward": _info_nce_backward,
    **_both_ways("altup", _altup),
    **_both_ways("mixed_activation", _mixed_activation),
    **_both_ways("feature_pool", _feature_pool),
    **_both_ways("negative_cosine", _negative_cosine),
    **_both_ways("nt_xent", _nt_xent),
    **_both_ways("patch_loss", _patch_loss),
    **_both_ways("distill_kl", _distill_kl),
    **_both_ways("class_scores", _class_scores),
    **_both_ways("token_select", _selected),
    **_both_ways("token_gather", lambda _: _moved("visible")),
    **_both_ways("token_restore", lambda _: _moved("rank")),
    **_both_ways("token_merge", lambda _: _merged("tokens")),
}
