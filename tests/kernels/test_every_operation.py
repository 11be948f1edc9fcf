"""What every operation promises, on the CPU: its C++ loops against its reference in float64."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import CASES, SIZES, assert_close, outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from versions import interpreter_fails

from naslab.kernels._dispatch import switched

everything = pytest.mark.parametrize("name", CASES)


def expected(case, size):
    with switched("reference"):
        return outcome(case, case.made(size, torch.float64))


def fused(case, inputs):
    with switched("fused"):
        return outcome(case, inputs)


@everything
@pytest.mark.parametrize("size", SIZES)
def test_it_is_its_reference_in_float64(name, size, nan_filled):
    case = CASES[name]
    assert_close(fused(case, case.made(size, torch.float32)), expected(case, size), case.tolerance, size)


@everything
@settings(deadline=None, max_examples=10)
@given(size=st.integers(0, 70))
def test_it_is_its_reference_at_any_size(name, size):
    case = CASES[name]
    assert_close(fused(case, case.made(size, torch.float32)), expected(case, size), case.tolerance, size)


@everything
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-2), (torch.float16, 1e-2)])
def test_half_precision(name, dtype, tolerance):
    case = CASES[name]
    inputs = case.made(63, dtype)
    results = fused(case, inputs)
    leaves = [t for t in inputs if t.requires_grad]
    assert [r.dtype for r in results[1:]] == [t.dtype for t in leaves]
    assert_close(results, expected(case, 63), tolerance)


@everything
def test_two_runs_agree_to_the_bit(name):
    case = CASES[name]
    first, second = (fused(case, case.made(100, torch.float32)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@everything
def test_inputs_need_not_be_contiguous(name):
    case = CASES[name]
    dense = case.made(63, torch.float32)
    strided = tuple(torch.stack([t.detach(), t.detach()], -1)[..., 1].requires_grad_(t.requires_grad) for t in dense)
    assert_close(fused(case, strided), fused(case, dense), case.tolerance)


class Returned(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the numbers that backward operations return."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.namespace == "naslab" and "_backward" in func.name():
            self.numbers += sum(t.numel() for t in (found if isinstance(found, tuple) else (found,)))
        return found


SEVERAL = [name for name in CASES if len(CASES[name].made(5, torch.float32)) > 1 and not name.startswith("nt_xent")]


def one_at_a_time(case, dtype):
    """The inputs of a case over and over, another of them alone wanting a gradient."""
    for n in range(len(case.made(9, dtype))):
        yield tuple(t.detach().requires_grad_(m == n) for m, t in enumerate(case.made(9, dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SEVERAL)
def test_each_input_alone_has_the_gradient_that_it_has_among_the_others(name, dtype):
    """Through the loops, and through the fallback."""
    case = CASES[name]
    together = fused(case, case.made(9, dtype))[1:]
    alone = [fused(case, inputs)[1] for inputs in one_at_a_time(case, dtype)]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", SEVERAL)
def test_only_the_gradients_that_are_needed_are_made(name):
    case = CASES[name]
    with Returned() as every:
        fused(case, case.made(9, torch.float32))
    for inputs in one_at_a_time(case, torch.float32):
        with Returned() as alone:
            fused(case, inputs)
        assert 0 < alone.numbers < every.numbers


@pytest.mark.parametrize("name", SEVERAL)
def test_only_the_gradients_that_are_needed_are_made_when_compiled(name):
    case = CASES[name]
    together = fused(case, case.made(9, torch.float32))[1:]
    for inputs, gradient in zip(one_at_a_time(case, torch.float32), together, strict=True):
        torch.compiler.reset()
        compiled = replace(case, function=torch.compile(case.function, fullgraph=True, backend="aot_eager"))
        assert_close(fused(compiled, inputs)[1:], [gradient], case.tolerance)


@everything
def test_gradients_of_the_reference(name):
    case = CASES[name]
    with switched("reference"):
        assert torch.autograd.gradcheck(case.function, case.made(3, torch.float64))


@everything
def test_gradients_of_gradients(name):
    case = CASES[name]

    def second(inputs):
        leaves = [t for t in inputs if t.requires_grad]
        result = case.function(*inputs)
        if not result.requires_grad:
            return []
        first = torch.autograd.grad(result.square().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), leaves, allow_unused=False))

    with switched("fused"):
        actual = second(case.made(5, torch.float32))
    with switched("reference"):
        assert_close(actual, second(case.made(5, torch.float64)), 20 * case.tolerance)


@everything
def test_functional_gradients(name):
    case = CASES[name]
    inputs = tuple(t.detach() for t in case.made(5, torch.float32))
    where = tuple(n for n, t in enumerate(inputs) if t.is_floating_point())

    def gradients():
        return torch.func.grad(lambda *xs: case.function(*xs).float().square().sum(), argnums=where)(*inputs)

    with switched("fused"):
        actual = gradients()
    with switched("reference"):
        assert_close(list(actual), list(gradients()), 10 * case.tolerance)


@everything
def test_maps_and_forward_mode_gradients(name):
    """On every way: these need rules that the custom operations do not have."""
    case = CASES[name]
    inputs = tuple(t.detach() for t in case.made(5, torch.float32))
    tangents = tuple(torch.ones_like(t) for t in inputs)
    with switched("fused"):
        mapped = torch.func.vmap(case.function)(*(torch.stack([t, t / 2]) for t in inputs))
        assert_close(list(mapped), [case.function(*inputs), case.function(*(t / 2 for t in inputs))], case.tolerance)
        along = torch.func.jvp(case.function, inputs, tangents)[1]
        with forward_ad.dual_level():
            dual = case.function(*(forward_ad.make_dual(t, ones) for t, ones in zip(inputs, tangents, strict=True)))
            assert torch.equal(forward_ad.unpack_dual(dual).tangent, along)
    with switched("reference"):
        exact = torch.func.jvp(case.function, *(tuple(t.double() for t in ts) for ts in (inputs, tangents)))[1]
        assert_close([along], [exact], 10 * case.tolerance)


@everything
@pytest.mark.parametrize("to", ["fused", "auto"])
def test_it_compiles_into_one_graph(name, to):
    torch.compiler.reset()
    case = CASES[name]
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    if to == "auto":
        results = compiled(*case.made(9, torch.float32))
    else:
        with switched("fused"):
            results = compiled(*case.made(9, torch.float32))
            plain = outcome(case, case.made(9, torch.float32))
            case_compiled = type(case)(compiled, case.inputs, case.tolerance)
            assert_close(outcome(case_compiled, case.made(9, torch.float32)), plain, case.tolerance)
    assert_close([results], expected(case, 9)[:1], case.tolerance)


@everything
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_compiles_where_no_gradient_is_needed(name, mode):
    torch.compiler.reset()
    case = CASES[name]
    inputs = tuple(t.detach() for t in case.made(9, torch.float32))
    with switched("fused"), mode():
        result = torch.compile(case.function, fullgraph=True, backend="aot_eager")(*inputs)
    assert_close([result], expected(case, 9)[:1], case.tolerance)


@everything
def test_it_exports_without_a_trace_of_this_package(name):
    case = CASES[name]

    class Model(torch.nn.Module):
        def forward(self, *inputs):
            return case.function(*inputs)

    inputs = tuple(t.detach() for t in case.made(9, torch.float32))
    with switched("fused"):
        program = torch.export.export(Model(), inputs)
    assert "naslab" not in str(program.graph)
    assert_close([program.module()(*inputs)], expected(case, 9)[:1], case.tolerance)


@everything
@pytest.mark.parametrize("to", ["fused", "reference"])
def test_autocast_leaves_the_precision(name, to):
    """On both ways, or the precision would change where the size crosses over from one to the other."""
    case = CASES[name]
    inputs = case.made(9, torch.float32)

    def under_autocast(*given):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return case.function(*given)

    with switched(to):
        actual = outcome(replace(case, function=under_autocast), inputs)
    assert_close(actual, expected(case, 9), case.tolerance)


@everything
def test_registration(name, monkeypatch):
    """opcheck on every custom operation that a forward and a backward reach."""
    seen = []
    case = CASES[name]

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "naslab":
                seen.append((func, args))
            return func(*args, **(kwargs or {}))

    with Watch():
        fused(case, case.made(9, torch.float32))
    assert seen, f"{name} reaches no custom operation"
    for operation, arguments in seen:
        plain = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments)
        torch.library.opcheck(operation, plain)


def test_kernels_in_the_interpreter():
    """In a process of its own, for interpreted and compiled kernels cannot share one."""
    pytest.importorskip("triton")
    if reason := interpreter_fails():
        pytest.skip(reason)
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(here / "interpreted")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=here.parents[1])
    assert done.returncode == 0, done.stdout[-4000:]
    assert "[100%]" in done.stdout
