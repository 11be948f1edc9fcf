"""One graph serves every size: nothing in an operation ties a program to the sizes it was made with."""

import pytest
import torch
from cases import CASES, assert_close

from naslab.kernels._dispatch import switched

SIZES = 23, 19, 31
everything = pytest.mark.parametrize("name", CASES)


def inputs(name, size):
    return tuple(t.detach() for t in CASES[name].made(size, torch.float32))


def expected(name, size):
    with switched("reference"):
        return [CASES[name].function(*CASES[name].made(size, torch.float64))]


@everything
@pytest.mark.parametrize(("to", "gradients"), [("fused", True), ("fused", False), ("reference", True)])
def test_one_graph_for_all_sizes(name, to, gradients):
    torch.compiler.reset()
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(CASES[name].function, fullgraph=True, dynamic=True, backend=backend)
    for size in SIZES:
        given = tuple(t.requires_grad_(gradients and t.is_floating_point()) for t in inputs(name, size))
        with switched(to):
            assert_close([compiled(*given)], expected(name, size), CASES[name].tolerance, size)
    assert len(graphs) == 1


@everything
def test_it_exports_with_its_sizes_left_open(name):
    class Model(torch.nn.Module):
        def forward(self, *tensors):
            return CASES[name].function(*tensors)

    given, others = inputs(name, SIZES[0]), inputs(name, SIZES[1])
    shapes = tuple(
        {d: torch.export.Dim.AUTO for d in range(tensor.ndim) if tensor.shape[d] != other.shape[d]} or None
        for tensor, other in zip(given, others, strict=True)
    )
    assert any(shapes)
    program = torch.export.export(Model(), given, dynamic_shapes=(shapes,))
    for size in SIZES:
        assert_close([program.module()(*inputs(name, size))], expected(name, size), CASES[name].tolerance, size)
