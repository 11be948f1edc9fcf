"""Every operation through its C++ loops, forward and backward, at sizes around the edges of blocks.

Here the results are held against the references. `make sanitize` runs the same with loops that stop the process at the
first address or operation that C++ does not define.
"""

import pytest
import torch
from cases import CASES, assert_close, outcome

from naslab.kernels import _build, _native
from naslab.kernels._dispatch import switched

SIZES = (1, 2, 15, 16, 17, 64, 130)


@pytest.fixture(autouse=True)
def needs_compiler():
    if _native.library("altup.cpp") is None:
        pytest.skip("no C++ compiler")


@pytest.mark.parametrize("source", sorted(path.name for path in _build.SOURCES.glob("*.cpp")))
def test_the_loops_load(source):
    assert _native.library(source) is not None


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_the_loops_agree_with_the_references_at_every_size(case, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size in SIZES:
            with switched("fused"):
                actual = outcome(case, case.made(size, torch.float32))
            with switched("reference"):
                expected = outcome(case, case.made(size, torch.float64))
            assert_close(actual, expected, case.tolerance, size)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_no_value_is_out_of_bounds(case, value):
    inputs = case.made(17, torch.float32)
    for tensor in inputs:
        if tensor.requires_grad:
            tensor.data.flatten()[::3] = value
    with switched("fused"):
        outcome(case, inputs)
