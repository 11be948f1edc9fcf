"""The bytes that each design moves, counted at its loads and stores, against the formula that states its limit.

Counted are large tensors: what each sample or token has. Coefficients, statistics, indices and sums stay in a cache.
"""

import importlib
from collections import Counter

import numpy as np
import pytest
import torch

from naslab.kernels import (
    ACTIVATIONS,
    altup,
    bipartite_match,
    class_scores,
    distill_kl,
    gather_visible,
    merge_tokens,
    mixed_activation,
    negative_cosine,
    restore_tokens,
    select_tokens,
    token_mask,
    unmerge_tokens,
)
from naslab.kernels._dispatch import switched
from naslab.kernels._triton import Kernel

BATCH, TOKENS, KEPT, MERGED, WIDTH = 40, 12, 5, 3, 96
LARGE = BATCH * KEPT * WIDTH * 4
"""Bytes of the smallest tensor that counts."""


@pytest.fixture
def moved(monkeypatch):
    """Bytes read and written so far, in tensors of at least LARGE bytes."""
    from triton.runtime.interpreter import InterpreterBuilder

    counted, places = Counter(), []
    launch, load, store = Kernel._launch, InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def launch_noted(kernel, grid, *arguments, **constants):
        places[:] = {  # each once, however often it is an argument
            (t.data_ptr(), t.data_ptr() + t.untyped_storage().nbytes())
            for t in arguments
            if isinstance(t, torch.Tensor) and t.numel() * t.element_size() >= LARGE
        }
        launch(kernel, grid, *arguments, **constants)

    def note(pointers, mask, bits):
        addresses = pointers.data[mask.data.astype(bool)].astype(np.uint64)
        counted["bytes"] += bits // 8 * sum(int(((addresses >= a) & (addresses < b)).sum()) for a, b in places)

    def load_noted(builder, pointers, mask, *rest):
        note(pointers, mask, pointers.get_element_ty().primitive_bitwidth)
        return load(builder, pointers, mask, *rest)

    def store_noted(builder, pointers, value, mask, *rest):
        note(pointers, mask, pointers.get_element_ty().primitive_bitwidth)
        return store(builder, pointers, value, mask, *rest)

    monkeypatch.setattr(Kernel, "_launch", launch_noted)
    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", load_noted)
    monkeypatch.setattr(InterpreterBuilder, "create_masked_store", store_noted)
    return counted


def bytes_of(module, *sizes, **options):
    return importlib.import_module(f"naslab.kernels.{module}").traffic_bytes(*sizes, **options)


def leaf(*shape):
    return torch.randn(shape).requires_grad_()


def altup_case():
    leaves = leaf(3, TOKENS, WIDTH * 20), leaf(TOKENS, WIDTH * 20), leaf(3, 3), leaf(3)
    sizes = (3, TOKENS, WIDTH * 20, 4)
    return altup, leaves, bytes_of("altup", *sizes), bytes_of("altup", *sizes, backward=True)


def mixed_case():
    """x is read for the statistics and for the mix; backward x and the gradient are, for the sums and for dx."""
    names = tuple(ACTIVATIONS)
    leaves = leaf(BATCH * 8, 4, WIDTH), leaf(4), leaf(4, WIDTH), leaf(4, WIDTH)
    unit = BATCH * 8 * WIDTH * 4
    sizes = (BATCH * 8, 4, WIDTH, 4)
    twice = bytes_of("mixed_activation", *sizes) + 4 * unit
    backward = bytes_of("mixed_activation", *sizes, backward=True) + 5 * unit
    return lambda *tensors: mixed_activation(*tensors, names).output, leaves, twice, backward


def gather_case():
    mask = token_mask(torch.rand(BATCH, TOKENS), KEPT)
    kept, rows = BATCH * KEPT, BATCH * TOKENS
    both = bytes_of("token_gather", kept, kept, WIDTH, 4), bytes_of("token_gather", kept, rows, WIDTH, 4)
    return lambda tokens: gather_visible(tokens, mask), (leaf(BATCH, TOKENS, WIDTH),), *both


def gather_with_positions_case():
    _, leaves, *both = gather_case()
    mask = token_mask(torch.rand(BATCH, TOKENS), KEPT)
    return lambda tokens, p: gather_visible(tokens, mask, p), (*leaves, leaf(TOKENS, WIDTH)), *both


def restore_case():
    mask = token_mask(torch.rand(BATCH, TOKENS), KEPT)
    leaves = leaf(BATCH, KEPT, WIDTH), leaf(WIDTH), leaf(TOKENS, WIDTH)
    moved = bytes_of("token_gather", BATCH * KEPT, BATCH * TOKENS, WIDTH, 4)
    return lambda tokens, token, p: restore_tokens(tokens, mask, token, p), leaves, moved, moved


def scores_case():
    leaves = leaf(BATCH, 2, 64), leaf(BATCH, 2, TOKENS, 64)
    sizes = (BATCH, 2, TOKENS, 64, 4)
    both = bytes_of("class_scores", *sizes), bytes_of("class_scores", *sizes, backward=True)
    return lambda query, keys: class_scores(query, keys, 0.1), leaves, *both


def select_case():
    """The fused row is written; backward it is read by each token that it was made of, from a cache."""
    sizes, fused = (BATCH * TOKENS, BATCH * (1 + KEPT), WIDTH, 4), BATCH * WIDTH * 4
    leaves = leaf(BATCH, TOKENS, WIDTH), torch.rand(BATCH, TOKENS - 1).requires_grad_()
    again = fused * (TOKENS - 1 - KEPT)
    both = bytes_of("token_select", *sizes) + fused, bytes_of("token_select", *sizes, backward=True) + again
    return lambda tokens, scores: select_tokens(tokens, scores, KEPT).tokens, leaves, *both


def matching():
    return bipartite_match(torch.randn(BATCH, TOKENS, 8), MERGED)


def merge_case():
    """The backward reads a row for each of its tokens: the merged ones again."""
    found, both = matching(), bytes_of("token_merge", BATCH * TOKENS, BATCH * (TOKENS - MERGED), WIDTH, 4)
    sizes, again = torch.ones(BATCH, TOKENS), BATCH * MERGED * WIDTH * 4
    return lambda tokens: merge_tokens(tokens, sizes, found)[0], (leaf(BATCH, TOKENS, WIDTH),), both, both + again


def unmerge_case():
    """Unmerging reads a row for each of its tokens: the merged ones again."""
    found, both = matching(), bytes_of("token_merge", BATCH * TOKENS, BATCH * (TOKENS - MERGED), WIDTH, 4)
    again = BATCH * MERGED * WIDTH * 4
    return lambda rows: unmerge_tokens(rows, found), (leaf(BATCH, TOKENS - MERGED, WIDTH),), both + again, both


def cosine_case():
    sizes = (BATCH * 5, WIDTH, 4)
    z = torch.randn(BATCH * 5, WIDTH)
    both = bytes_of("negative_cosine", *sizes), bytes_of("negative_cosine", *sizes, backward=True)
    return lambda p: negative_cosine(p, z), (leaf(BATCH * 5, WIDTH),), *both


def distill_case():
    sizes, expert = (BATCH * 5, WIDTH, 4), torch.randn(BATCH * 5, WIDTH)
    both = bytes_of("distill_kl", *sizes), bytes_of("distill_kl", *sizes, backward=True)
    return lambda logits: distill_kl(logits, expert), (leaf(BATCH * 5, WIDTH),), *both


CASES = {
    "altup": altup_case,
    "mixed_activation": mixed_case,
    "gather_visible": gather_case,
    "gather_visible with positions": gather_with_positions_case,
    "restore_tokens": restore_case,
    "class_scores": scores_case,
    "select_tokens": select_case,
    "merge_tokens": merge_case,
    "unmerge_tokens": unmerge_case,
    "negative_cosine": cosine_case,
    "distill_kl": distill_case,
}


@pytest.mark.parametrize("name", CASES)
def test_it_moves_what_its_formula_says(name, moved):
    torch.manual_seed(0)
    with switched("fused"):
        function, leaves, forward, backward = CASES[name]()
        moved.clear()
        result = function(*leaves)
        found = [moved["bytes"]]
        moved.clear()
        torch.autograd.grad(result, leaves, torch.randn_like(result))
        found.append(moved["bytes"])
    assert found == [pytest.approx(forward, rel=0.02), pytest.approx(backward, rel=0.02)]
