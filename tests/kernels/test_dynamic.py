"""One graph serves every batch size: nothing in an operation ties a program to the sizes it was made with."""

import pytest
import torch
from cases import assert_close, normal, rows_like

from naslab.kernels import (
    ACTIVATIONS,
    altup,
    bipartite_match,
    class_scores,
    gather_visible,
    info_nce,
    merge_tokens,
    mixed_activation,
    negative_cosine,
    nt_xent,
    patch_loss,
    restore_tokens,
    select_tokens,
    token_mask,
    unmerge_tokens,
)
from naslab.kernels._dispatch import switched


def masked_autoencoder(tokens, noise, token, positions):
    mask = token_mask(noise, 3)
    return restore_tokens(gather_visible(tokens, mask, positions), mask, token, positions)


def there_and_back(tokens, metric):
    matching = bipartite_match(metric, 3)
    return unmerge_tokens(merge_tokens(tokens, torch.ones_like(metric[..., 0]), matching)[0], matching)


# Each with inputs for a batch of b; how many of them, from the first, have the batch in front.
PROGRAMS = {
    "altup": (
        lambda y, x, p, g: altup(x, y, p, g),
        lambda b: (normal(b, 7), normal(2, b, 7), normal(2, 2), normal(2)),
        1,
    ),
    "mixed_activation": (
        lambda x, w, a, s: mixed_activation(x, w, a, s, tuple(ACTIVATIONS)).output,
        lambda b: (normal(b, 4, 5), normal(4), normal(4, 5), normal(4, 5)),
        1,
    ),
    "mask, gather, restore": (
        masked_autoencoder,
        lambda b: (normal(b, 9, 5), normal(b, 9), normal(5), normal(9, 5)),
        2,
    ),
    "patch_loss": (
        lambda p, images, noise: patch_loss(p, images, token_mask(noise, 1).masked_BM, 4),
        lambda b: (normal(b, 3, 48), normal(b, 3, 8, 8), normal(b, 4)),
        3,
    ),
    "class_scores": (lambda q, k: class_scores(q, k, 0.3), lambda b: (normal(b, 2, 8), normal(b, 2, 6, 8)), 2),
    "select_tokens": (
        lambda t, s: select_tokens(t, s, 3).tokens,
        lambda b: (normal(b, 9, 5), normal(b, 8)),
        2,
    ),
    "match, merge, unmerge": (there_and_back, lambda b: (normal(b, 9, 5), normal(b, 9, 4)), 2),
    "nt_xent": (lambda a, b: nt_xent(a, b, 0.5), lambda b: (normal(b, 8), normal(b, 8)), 2),
    "info_nce": (lambda q, k: info_nce(q, k, rows_like(q, 30), 0.5), lambda b: (normal(b, 8), normal(b, 8)), 2),
    "negative_cosine": (negative_cosine, lambda b: (normal(b, 8), normal(b, 8)), 2),
}
everything = pytest.mark.parametrize("name", PROGRAMS)


def inputs(name, batch):
    torch.manual_seed(batch)
    return tuple(t.float() for t in PROGRAMS[name][1](batch))


def expected(name, batch):
    with switched("reference"):
        return PROGRAMS[name][0](*(t.double() for t in inputs(name, batch)))


@everything
@pytest.mark.parametrize("to", ["fused", "reference"])
@pytest.mark.parametrize("gradients", [True, False])
def test_one_graph_for_all_batch_sizes(name, to, gradients):
    torch.compiler.reset()
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(PROGRAMS[name][0], fullgraph=True, dynamic=True, backend=backend)
    for batch in (13, 11, 17):
        given = tuple(t.requires_grad_(gradients) for t in inputs(name, batch))
        with switched(to):
            assert_close([compiled(*given)], [expected(name, batch)], 1e-5, batch)
    assert len(graphs) == 1


@everything
def test_it_exports_with_the_batch_left_open(name):
    function, _, batched = PROGRAMS[name]

    class Model(torch.nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    given, batch = inputs(name, 13), torch.export.Dim("batch", min=2, max=64)
    shapes = tuple({0: batch} if n < batched else None for n in range(len(given)))
    if name == "altup":
        shapes = (shapes[0], {1: batch}, *shapes[2:])
    program = torch.export.export(Model(), given, dynamic_shapes=(shapes,))
    for other in (3, 17):
        assert_close([program.module()(*inputs(name, other))], [expected(name, other)], 1e-5, other)
