import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from naslab.efficiency import count
from naslab.kernels import info_nce, negative_cosine, nt_xent
from naslab.kernels._dispatch import switched
from naslab.kernels._similarity_tiles import Tiles

ways = pytest.mark.parametrize("way", ["fused", "reference"])


@ways
def test_nt_xent_is_the_papers_double_sum(way):
    z_a, z_b = torch.randn(6, 4), torch.randn(6, 4)
    z, total = torch.cat([z_a, z_b]).double(), 0.0
    for i in range(12):
        similarity = [F.cosine_similarity(z[i], z[k], dim=0).item() / 0.3 for k in range(12)]
        others = sum(math.exp(s) for k, s in enumerate(similarity) if k != i)
        total -= math.log(math.exp(similarity[(i + 6) % 12]) / others)
    with switched(way):
        assert nt_xent(z_a, z_b, 0.3).item() == pytest.approx(total / 12, rel=1e-5)


@ways
def test_info_nce_is_the_papers_sum_over_the_queue(way):
    query, key, queue = torch.randn(5, 4), torch.randn(5, 4), torch.randn(9, 4)
    total = 0.0
    for q, k in zip(query.double(), key.double(), strict=True):
        negatives = sum(math.exp((q @ other).item() / 0.7) for other in queue.double())
        positive = math.exp((q @ k).item() / 0.7)
        total -= math.log(positive / (positive + negatives))
    with switched(way):
        assert info_nce(query, key, queue, 0.7).item() == pytest.approx(total / 5, rel=1e-5)


@ways
def test_losses_and_gradients_agree_with_lightly(way):
    lightly = pytest.importorskip("lightly.loss", reason="needs the package lightly as an oracle")
    z_a, z_b = torch.randn(8, 6, requires_grad=True), torch.randn(8, 6, requires_grad=True)
    pairs = (
        (lambda a, b: nt_xent(a, b, 0.2), lightly.NTXentLoss(0.2)),
        (negative_cosine, lambda a, b: lightly.NegativeCosineSimilarity()(a, b.detach())),
    )
    for ours, theirs in pairs:
        with switched(way):
            actual = ours(z_a, z_b)
            (gradient,) = torch.autograd.grad(actual, z_a)
        expected = theirs(z_a, z_b)
        assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
        assert torch.allclose(gradient, torch.autograd.grad(expected, z_a)[0], atol=1e-6)


@ways
def test_sharp_temperatures_neither_overflow_nor_lose_the_gradient(way):
    z_a = torch.randn(40, 8, requires_grad=True)
    z_b = (z_a.detach() + torch.randn(40, 8)).requires_grad_()
    exact = tuple(z.detach().double().requires_grad_() for z in (z_a, z_b))
    with switched("reference"):
        expected = nt_xent(*exact, 0.005)
    with switched(way):
        actual = nt_xent(z_a, z_b, 0.005)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-4)
    back = zip(torch.autograd.grad(actual, (z_a, z_b)), torch.autograd.grad(expected, exact), strict=True)
    assert all((a - e).norm() <= 1e-4 * e.norm() for a, e in back)


@ways
@pytest.mark.parametrize("temperature", [1 / 40, 1 / 41])
@pytest.mark.parametrize("batch", [2, 300])
def test_views_opposite_to_each_other_cost_as_much_as_float64_says(way, temperature, batch):
    """Where exp((s - 1) / t) is as small as it gets, on either side of where the C++ loops end."""
    z_a = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0]]) + 1e-3 * torch.randn(batch, 2), dim=1)
    inputs = [z_a.requires_grad_(), (-z_a).detach().requires_grad_()]
    exact = [z.detach().double().requires_grad_() for z in inputs]
    with switched("reference"):
        expected = nt_xent(*exact, temperature)
    with switched(way):
        actual = nt_xent(*inputs, temperature)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
    back = zip(torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, exact), strict=True)
    # Only what is across the row is left of a gradient, and a similarity is known to some 2^-23.
    assert all((a - e).norm() <= 8 * 2**-23 / temperature**2 for a, e in back)


@ways
@pytest.mark.parametrize("temperature", [0.01, 0.07])
@pytest.mark.parametrize("batch", [3, 512])
def test_aligned_pairs_cost_next_to_nothing_and_never_less(way, temperature, batch):
    z_a = torch.randn(batch, 128)
    inputs = [(z_a + 0.01 * torch.randn(batch, 128)).requires_grad_() for _ in range(2)]
    exact = [z.detach().double().requires_grad_() for z in inputs]
    with switched("reference"):
        expected = nt_xent(*exact, temperature)
    with switched(way):
        actual = nt_xent(*inputs, temperature)
    assert actual >= 0
    # A similarity is known to some 2^-23, so its exponential to that times its factor 1 / temperature.
    assert actual.item() == pytest.approx(expected.item(), rel=8 * 2**-23 / temperature, abs=1e-7)


@ways
def test_what_is_not_a_number_stays_visible(way):
    z = torch.randn(300, 8)
    z[7, 3] = float("nan")
    with switched(way):
        assert nt_xent(z, torch.randn(300, 8), 0.5).isnan()
        assert info_nce(z, torch.randn(300, 8), torch.randn(20, 8), 0.5).isnan()
        assert info_nce(torch.randn(4, 8), torch.randn(4, 8), z, 0.5).isnan()
        assert negative_cosine(z, torch.randn(300, 8)).isnan()


@ways
def test_degenerate_batches(way):
    one = torch.randn(1, 5, requires_grad=True)
    with switched(way):
        loss = nt_xent(one, torch.randn(1, 5), 0.5)  # a pair without negatives is always told apart
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert torch.autograd.grad(loss, one)[0].abs().max() < 1e-6
        assert info_nce(one, one.detach(), torch.empty(0, 5), 0.5).item() == pytest.approx(0, abs=1e-6)
        zero = torch.zeros(2, 5, requires_grad=True)
        loss = negative_cosine(zero, torch.ones(2, 5))
        assert loss.item() == 0
        assert torch.autograd.grad(loss, zero)[0].isfinite().all()


@ways
def test_queue_and_target_get_no_gradient(way):
    queue, query = torch.randn(9, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    with switched(way):
        info_nce(query, query.detach(), queue, 0.5).backward()
        negative_cosine(query, queue[:5]).backward()
    assert queue.grad is None
    assert query.grad.isfinite().all()


def test_a_gradient_that_the_forward_did_not_foresee():
    query, key, queue = torch.randn(5, 4), torch.randn(5, 4), torch.randn(9, 4)
    forward, backward = torch.ops.naslab.info_nce, torch.ops.naslab.info_nce_backward
    grad = torch.tensor(1.0)
    foreseen, not_foreseen = (
        backward(grad, *forward(query, key, queue, 0.5, attend)[1:], query, key, queue, 0.5, attend, [True, True])
        for attend in (True, False)
    )
    assert all(torch.equal(a, b) for a, b in zip(foreseen, not_foreseen, strict=True))


def test_autocast_leaves_float32_products_exact():
    z_a, z_b, queue = torch.randn(40, 16), torch.randn(40, 16), torch.randn(30, 16)
    with switched("fused"):
        expected = nt_xent(z_a, z_b, 0.1), info_nce(z_a, z_b, queue, 0.1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = nt_xent(z_a, z_b, 0.1), info_nce(z_a, z_b, queue, 0.1)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def test_mixed_dtypes_are_promoted():
    query, queue = torch.randn(6, 4).bfloat16(), torch.randn(9, 4)
    for way in ("fused", "reference"):
        with switched(way):
            assert info_nce(query, query, queue, 0.5).dtype == torch.float32
            assert negative_cosine(query, query.float()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_has_room_for_norms_sums_and_empty_rows(dtype):
    """Float16 ends at 65504, where norms of large rows and sums over large batches do not, and has no 1e-12."""
    z = torch.randn(4, 128)
    for rows in (3e4 * z.clamp(-2, 2), torch.zeros(4, 128)):
        given = rows.to(dtype), z.to(dtype)
        exact = [tensor.double() for tensor in given]
        assert nt_xent(*given, 1.0).item() == pytest.approx(nt_xent(*exact, 1.0).item(), rel=2**-5)
        assert negative_cosine(*given).item() == pytest.approx(negative_cosine(*exact).item(), abs=2**-7)
    many = torch.zeros(70_000, 1, dtype=dtype)
    assert info_nce(many, many, many[:2], 1.0).item() == pytest.approx(math.log(3), rel=2**-7)
    assert negative_cosine(many + 1, many + 2).item() == -1


@ways
def test_a_temperature_that_would_get_no_gradient_is_refused(way):
    temperature = torch.tensor(0.5, requires_grad=True)
    with switched(way):
        for function, tensors in ((nt_xent, 2), (info_nce, 3)):
            with pytest.raises(ValueError, match="temperature: a tensor"):
                function(*torch.randn(tensors, 4, 3), temperature)


def peak_rise(function):
    """Bytes of resident memory above the start at the worst moment, by the kernel's own mark."""
    status, marks = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        marks.write_text("5")
    except OSError:
        pytest.skip("needs Linux's resettable mark of resident memory")

    def field(name):
        return int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1]) * 1024

    before = field("VmRSS")
    function()
    return field("VmHWM") - before


def test_the_matrix_of_similarities_is_never_in_memory():
    batch, keys, width = 2048, 40_000, 32
    z_a, z_b = (torch.randn(batch, width, requires_grad=True) for _ in range(2))
    query, queue = torch.randn(512, width, requires_grad=True), torch.randn(keys, width)
    losses = {
        (2 * batch) ** 2 * 4: lambda: nt_xent(z_a, z_b, 0.5).backward(),
        512 * keys * 4: lambda: info_nce(query, query.detach(), queue, 0.5).backward(),
    }
    for matrix_bytes, step in losses.items():
        with switched("fused"):
            step()  # compiles the loops
            assert peak_rise(step) < matrix_bytes / 4
        with switched("reference"):
            assert peak_rise(step) > matrix_bytes, "the measurement sees nothing"


@pytest.mark.parametrize("rows", [1, 64, 512, 8192])
@pytest.mark.parametrize("columns", [1, 100, 4096, 65_536])
@pytest.mark.parametrize("width", [16, 128, 2048])
def test_partial_results_of_a_gpu_stay_below_the_matrix(rows, columns, width):
    tiles = Tiles(torch.empty(rows, width, device="meta"), columns, partial_width=width)
    assert tiles.splits == 1 or tiles.splits * width <= columns / 2
    assert (tiles.splits - 1) * tiles.share < columns <= tiles.splits * tiles.share


def test_the_profiler_sees_them():
    def step():
        z, queue = torch.randn(8, 16, requires_grad=True), torch.randn(20, 16)
        loss = nt_xent(z, z.detach(), 0.5) + info_nce(z, z.detach(), queue, 0.5) + negative_cosine(z, z.detach())
        loss.backward()

    with switched("fused"):
        counted = count(step)
    assert counted.coverage == 1, counted.uncovered
    work = {name: counted.by_operation[f"naslab::{name}"] for name in ("nt_xent", "nt_xent_backward", "info_nce")}
    assert work["nt_xent"].contraction == 2 * 16 * 16 * 16
    assert work["nt_xent_backward"].contraction == 2 * work["nt_xent"].contraction
    assert work["info_nce"].contraction == 2 * 2 * 8 * 20 * 16
    assert counted.by_operation["naslab::negative_cosine"].pointwise == 6 * 8 * 16


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (nt_xent, ((4,), (4,), 0.5), "z_a_BD"),
        (nt_xent, ((4, 3), (5, 3), 0.5), "z_b_BD"),
        (nt_xent, ((4, 3), (4, 3), 0.0), "temperature: 0.0"),
        (nt_xent, ((4, 3), (4, 3), math.nan), "temperature: nan"),
        (info_nce, ((4, 3, 1), (4, 3), (9, 3), 0.5), "query_BD"),
        (info_nce, ((4, 3), (4, 2), (9, 3), 0.5), "key_BD"),
        (info_nce, ((4, 3), (4, 3), (9, 2), 0.5), "queue_KD"),
        (info_nce, ((4, 3), (4, 3), (9, 3), -1.0), "temperature: -1.0"),
        (negative_cosine, ((4,), (4,)), "p_BD"),
        (negative_cosine, ((4, 3), (1, 3)), "z_BD"),
    ],
)
def test_wrong_arguments_are_named(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*(torch.randn(a) if isinstance(a, tuple) else a for a in arguments))


def test_integers_are_refused():
    with pytest.raises(ValueError, match="z_a_BD"):
        nt_xent(torch.ones(2, 2).long(), torch.ones(2, 2).long(), 0.5)


@ways
@pytest.mark.parametrize(("function", "other"), [(nt_xent, 1), (info_nce, 1), (info_nce, 2), (negative_cosine, 1)])
def test_tensors_of_two_devices_are_refused(way, function, other):
    tensors = [torch.randn(4, 6) for _ in range(3 if function is info_nce else 2)]
    tensors[other] = tensors[other].to("meta")
    with switched(way), pytest.raises(ValueError, match="on meta, but the other tensors are on cpu"):
        function(*tensors, *([] if function is negative_cosine else [0.5]))
