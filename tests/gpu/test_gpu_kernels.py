"""Every operation's kernels on the device against its reference in float64: values and gradients."""

import pytest
import torch
from cases import CASES, LAYOUTS, assert_close, outcome

from naslab.efficiency.kernel_cases import cases
from naslab.efficiency.kernel_table import is_correct
from naslab.kernels import bipartite_match
from naslab.kernels._dispatch import switched

everything = pytest.mark.parametrize("name", CASES)
TOLERANCE = {torch.float32: None, torch.bfloat16: 5e-2, torch.float16: 1e-2}
TABLE = (torch.float32, torch.bfloat16)


def made(case, size, dtype, device, layout="contiguous"):
    found = []
    for tensor in case.made(size, dtype):
        there = tensor.detach().to(device)
        if there.is_floating_point() and there.ndim:
            there = LAYOUTS[layout](there)
        found.append(there.requires_grad_(tensor.requires_grad))
    return tuple(found)


def check(name, size, dtype, device, layout="contiguous"):
    case = CASES[name]
    with switched("reference"):
        expected = outcome(case, made(case, size, torch.float64, device))
    with switched("fused"):
        actual = outcome(case, made(case, size, dtype, device, layout))
    assert all(a.device.type == device.type for a in actual)
    assert_close(actual, expected, TOLERANCE[dtype] or case.tolerance, (size, dtype, layout))


@everything
@pytest.mark.parametrize("size", [0, 1, 63, 100, 1000])
def test_sizes(name, size, device):
    check(name, size, torch.float32, device)


@everything
@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
def test_layouts(name, layout, device):
    check(name, 63, torch.float32, device, layout)


@everything
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(name, dtype, device):
    check(name, 63, dtype, device)


@everything
def test_two_runs_agree_to_the_bit(name, device):
    case = CASES[name]
    with switched("fused"):
        first, second = (outcome(case, made(case, 100, torch.float32, device)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@everything
def test_under_autocast(name, device):
    case = CASES[name]
    with switched("reference"):
        expected = outcome(case, made(case, 9, torch.float64, device))
    with switched("fused"), torch.autocast(device.type, torch.bfloat16):
        actual = outcome(case, made(case, 9, torch.float32, device))
    assert_close(actual, expected, 5e-2)


def test_inputs_of_the_cpu_are_refused(cuda):
    """Rather than read as addresses of the device."""
    taken = []
    for name, case in CASES.items():
        inputs = made(case, 9, torch.float32, cuda)
        for n, tensor in enumerate(inputs[1:], 1):
            mixed = (*inputs[:n], tensor.detach().cpu(), *inputs[n + 1 :])
            try:
                with switched("fused"):
                    case.function(*mixed)
            except (ValueError, RuntimeError):
                continue
            taken.append(f"{name}, input {n}")
    torch.cuda.synchronize()
    assert taken == []


@pytest.mark.parametrize("tokens", [2, 141, 1568])
def test_the_matching_is_its_reference(tokens, device):
    generator = torch.Generator().manual_seed(tokens)
    metric = torch.randn(2, tokens, 64, generator=generator).to(device)
    with switched("fused"):
        actual = bipartite_match(metric, tokens // 3 if tokens > 2 else 0, 1)
    with switched("reference"):
        expected = bipartite_match(metric, tokens // 3 if tokens > 2 else 0, 1)
    # Products are summed in another order, so that near-equal partners may change places: few of them.
    for a, e in zip(actual, expected, strict=True):
        assert (a != e).sum() <= 0.01 * e.numel()


@pytest.mark.parametrize("dtype", TABLE, ids=str)
@pytest.mark.parametrize("kernel", sorted({name.split()[0] for name in CASES}))
def test_what_the_table_times_is_correct(kernel, dtype, device):
    """At its own sizes; on a CPU only the small ones, as this is then a trial of the test."""
    every = cases(device, dtype, kernel)
    tried = every if device.type == "cuda" else every[:1]
    assert [case.shape for case in tried if not is_correct(case, dtype)] == []
