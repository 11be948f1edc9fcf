import pytest
import torch

from naslab.efficiency import count
from naslab.kernels import altup
from naslab.kernels._dispatch import switched


def streams(*shape):
    return torch.randn(shape)


def test_predict_then_correct():
    x, y, p, g = streams(3, 4, 5), streams(4, 5), streams(3, 3), streams(3)
    predicted = [sum(p[i, j] * x[j] for j in range(3)) for i in range(3)]
    expected = torch.stack([predicted[i] + g[i] * (y - predicted[2]) for i in range(3)])
    assert torch.allclose(altup(x, y, p, g, active=2), expected, atol=1e-5)


@pytest.mark.parametrize("num_streams", [2, 3, 4, 8])
@pytest.mark.parametrize("way", ["fused", "reference"])
def test_identity_and_unit_gain_make_every_equal_stream_the_layers_output_to_the_bit(way, num_streams):
    x = streams(1, 60, 70).expand(num_streams, 60, 70)
    y = streams(60, 70)
    with switched(way):
        for active in range(num_streams):
            new = altup(x, y, torch.eye(num_streams), torch.ones(num_streams), active)
            assert torch.equal(new, y.expand(num_streams, 60, 70))


def test_gemma_3n():
    """Against the equations of Gemma3nTextAltUp: C and g of every token, the active stream first."""
    x, y, c, g = streams(4, 2, 6, 8), streams(2, 6, 8), streams(2, 6, 4, 4), streams(2, 6, 4)
    predicted = torch.matmul(x.permute(1, 2, 3, 0), c.permute(0, 1, 3, 2)).permute(3, 0, 1, 2) + x
    expected = (y - predicted[0]) * g.permute(2, 0, 1)[..., None] + predicted
    with switched("fused"):
        assert torch.allclose(altup(x, y, torch.eye(4) + c, g), expected, atol=1e-5)


def test_the_profiler_sees_it():
    x, y, p, g = (t.requires_grad_() for t in (streams(2, 5, 7), streams(5, 7), streams(2, 2), streams(2)))
    with switched("fused"):
        counted = count(lambda: altup(x, y, p, g).backward(torch.ones(2, 5, 7)))
    assert counted.coverage == 1, counted.uncovered
    assert counted.by_operation["naslab::altup"].pointwise == 2 * 2 * 3 * 5 * 7
    assert counted.by_operation["naslab::altup_backward"].pointwise == 4 * 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    ("name", "shapes", "active"),
    [
        ("streams", [(5,), (5,), (1, 1), (1,)], 0),
        ("layer_output", [(2, 4, 5), (4, 6), (2, 2), (2,)], 0),
        ("prediction", [(2, 4, 5), (4, 5), (3, 3), (2,)], 0),
        ("gain", [(2, 4, 5), (4, 5), (2, 2), (4, 2)], 0),
        ("active", [(2, 4, 5), (4, 5), (2, 2), (2,)], 2),
    ],
)
def test_wrong_arguments_are_named(name, shapes, active):
    with pytest.raises(ValueError, match=f"^{name}: "):
        altup(*(streams(*shape) for shape in shapes), active=active)


def test_a_wrong_dtype_is_named():
    with pytest.raises(ValueError, match=r"layer_output: .* of float64"):
        altup(streams(2, 4, 5), streams(4, 5).double(), streams(2, 2), streams(2))


def test_compiled_once_for_every_size_it_takes_both_forms_of_coefficients():
    """The second shape makes sizes symbolic, and an allowed shape must still be found among the allowed."""
    torch._dynamo.reset()
    compiled = torch.compile(altup, fullgraph=True, backend="eager")
    for batch, per_token in [((1,), False), ((1, 1), False), ((), True), ((4, 5), True), ((4, 5), False), ((6,), True)]:
        coefficients = batch if per_token else ()
        inputs = streams(3, *batch, 8), streams(*batch, 8), streams(*coefficients, 3, 3), streams(*coefficients, 3)
        assert torch.equal(compiled(*inputs, active=1), altup(*inputs, active=1))
