"""What meets a GPU first: every fused operation compiled, with and without gradients, and checked by opcheck there."""

from dataclasses import replace

import pytest
import torch
from cases import CASES, assert_close, outcome

from naslab.kernels import altup
from naslab.kernels._dispatch import switched

everything = pytest.mark.parametrize("name", CASES)
SIZE = 100


def made(case, device, dtype=torch.float32, size=SIZE):
    return tuple(t.detach().to(device).requires_grad_(t.requires_grad) for t in case.made(size, dtype))


def exact(case, device):
    """Result and gradients of the reference in float64."""
    with switched("reference"):
        return outcome(case, made(case, device, torch.float64))


@pytest.mark.parametrize(
    ("context", "backend"),
    [(torch.no_grad, "inductor"), (torch.inference_mode, "aot_eager")],  # what is traced differs, not what is generated
    ids=["no_grad", "inference_mode"],
)
@everything
def test_it_compiles_without_gradients(name, context, backend, device):
    torch.compiler.reset()
    case = CASES[name]
    with switched("fused"), context():
        compiled = torch.compile(case.function, fullgraph=True, backend=backend)(*made(case, device))
    assert_close([compiled], exact(case, device)[:1], case.tolerance)


@everything
def test_it_compiles_with_gradients(name, device):
    torch.compiler.reset()
    case = CASES[name]
    compiled = replace(case, function=torch.compile(case.function, fullgraph=True))
    with switched("fused"):
        actual = outcome(compiled, made(case, device))
    assert_close(actual, exact(case, device), case.tolerance)


@pytest.mark.parametrize("batch", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("per_token", [False, True])
def test_altup_of_one_token(batch, per_token, device):
    """Triton makes an argument of 1 a constant, in another type than it has otherwise."""
    generator = torch.Generator().manual_seed(0)
    streams, width = 3, 8

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

    coefficients = batch if per_token else ()
    inputs = draw(streams, *batch, width), draw(*batch, width), draw(*coefficients, 3, 3), draw(*coefficients, 3)
    with switched("reference"):
        expected = altup(*inputs, active=1)
    single = [t.float().requires_grad_() for t in inputs]
    with switched("fused"):
        plain = altup(*single, active=1)
        compiled = torch.compile(altup, fullgraph=True)(*single, active=1)
    plain.sum().backward()
    assert_close([plain, compiled], [expected, expected], 2e-6)


@everything
def test_opcheck(name, device):
    """Every custom operation that a forward and a backward reach there."""
    case, seen = CASES[name], {}

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "naslab":
                seen[func] = args
            return func(*args, **(kwargs or {}))

    with switched("fused"):
        with Watch():
            outcome(case, made(case, device, size=9))
        assert seen, f"{name} reaches no custom operation"
        for operation, arguments in seen.items():
            plain = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments)
            torch.library.opcheck(operation, plain)
