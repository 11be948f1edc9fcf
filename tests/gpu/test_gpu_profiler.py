"""The profiler on a GPU: every clock, memory, energy, provenance, and what it must leave alone."""

import pytest
import torch
from torch import nn

from naslab.efficiency import profile
from naslab.efficiency.calibration import calibrate, tf32
from naslab.efficiency.clocks import CLOCKS, KERNEL, GraphClock, KernelClock, clock_named
from naslab.efficiency.energy import measure_energy
from naslab.efficiency.latency import measure_latency
from naslab.efficiency.memory import peak_memory_bytes
from naslab.efficiency.provenance import collect_provenance
from naslab.errors import InputError


def network(device, width=256):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)).to(device)


def test_a_whole_profile(device):
    found = profile(network(device), torch.randn(32, 256), train=True, min_seconds=0.05, max_seconds=0.3)
    assert found.missing == {}
    assert found.latency_ms.median > 0
    assert found.flops.forward == 2 * 32 * 2 * 256 * 1024
    assert found.training["memory_bytes"]["peak"] > 0
    assert found.to_dict()["provenance"]["device_kind"] == device.type


def test_the_clocks_order(cuda):
    """What launches cost stands between the host's clock and the device's, where both find the same in the cache."""
    model, inputs = network(cuda), torch.randn(32, 256, device=cuda)
    with torch.no_grad():
        clocks = {name: clock_named(name, cuda) for name in CLOCKS} | {"kernel": KernelClock(cuda, flush_l2=False)}
        ms = {
            name: measure_latency(lambda: model(inputs), cuda, min_seconds=0.1, max_seconds=1, clock=clock).median
            for name, clock in clocks.items()
        }
    assert ms["kernel"] < ms["end to end"]
    assert ms["graph"] < ms["end to end"]


def test_the_flush_empties_the_cache(cuda):
    """A copy within the L2 cache is slower when its data have to be fetched."""
    source = torch.ones(2**22, device=cuda)  # 32 MB move: less than the cache holds, more than a launch takes
    target = torch.empty_like(source)
    flushed, warm = (
        measure_latency(
            lambda: target.copy_(source), cuda, min_seconds=0.1, max_seconds=1, clock=KernelClock(cuda, flush_l2=flush)
        ).median
        for flush in (True, False)
    )
    assert flushed > warm


def test_a_capture_that_fails_leaves_the_device_usable(cuda):
    clock = GraphClock(cuda)
    numbers = torch.ones(8, device=cuda)
    before = torch.cuda.get_rng_state(cuda)
    with pytest.raises(InputError, match="cannot capture"):
        clock.sampler(lambda: numbers.sum().item())
    assert not torch.cuda.is_current_stream_capturing()
    assert torch.equal(torch.cuda.get_rng_state(cuda), before)
    assert torch.rand(4, device=cuda).sum().item() > 0
    assert numbers.sum().item() == 8


def test_a_profile_leaves_random_states_and_weights_alone(device):
    model = nn.Sequential(network(device), nn.Dropout(0.5))
    weights = [p.clone() for p in model.parameters()]
    torch.manual_seed(3)
    expected = torch.rand(4, device=device)
    torch.manual_seed(3)
    profile(model, torch.randn(8, 256), train=True, min_seconds=0.02, max_seconds=0.1)
    torch.manual_seed(3)
    model.train()
    profile(model, torch.zeros(8, 256), train=True, min_seconds=0.02, max_seconds=0.1)
    assert torch.equal(torch.rand(4, device=device), expected)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert model.training


def test_memory_does_not_depend_on_what_else_is_there(cuda):
    model, inputs = network(cuda), torch.randn(64, 256, device=cuda)
    alone = peak_memory_bytes(model, inputs)
    held = torch.empty(2**26, device=cuda)
    beside = peak_memory_bytes(model, inputs)
    assert held.numel()
    assert beside == pytest.approx(alone, rel=0.02, abs=2**21)


def test_energy(cuda):
    pytest.importorskip("pynvml")
    a = torch.randn(4096, 4096, device=cuda, dtype=torch.float16)
    found = measure_energy(lambda: a @ a, cuda, seconds=1.5)
    if found.reason is None:
        assert 10 < found.watts < 2000
    else:
        pytest.skip(found.reason)


def test_provenance_names_the_device(cuda):
    pytest.importorskip("pynvml")
    gpu = collect_provenance(cuda).gpu
    assert gpu["memory_bytes"] > 2**30
    assert gpu["driver"]
    assert gpu["sm_clock_mhz"] > 0


@pytest.mark.parametrize("allowed", [True, False])
def test_a_calibration_leaves_the_device_as_it_was(allowed, cuda):
    for dtype in (torch.float32, torch.bfloat16):  # the workspace of products, which torch keeps
        torch.ones(64, 64, device=cuda, dtype=dtype).mm(torch.ones(64, 64, device=cuda, dtype=dtype))
    state = torch.cuda.get_rng_state(cuda)
    held = torch.cuda.memory_allocated(cuda)
    with tf32(allowed, cuda):
        setting = torch.backends.cuda.matmul.fp32_precision
        found = calibrate(cuda, seconds=1.5)
        assert torch.backends.cuda.matmul.fp32_precision == setting
        assert found.tf32_allowed is allowed
    assert found.flops_per_second["bfloat16"] > found.flops_per_second["float32"]
    assert torch.equal(torch.cuda.get_rng_state(cuda), state)
    assert torch.cuda.memory_allocated(cuda) - held < 2**20


def test_no_model_beats_its_roof(cuda):
    """Of a product in float32, whichever way TF32 is set; a tenth is the calibration's own spread."""
    calibrate(cuda, seconds=2.0).save()
    model = nn.Linear(4096, 4096, bias=False).to(cuda)
    for allowed in (True, False):
        with tf32(allowed, cuda):
            found = profile(model, torch.randn(4096, 4096), clocks=(KERNEL,), min_seconds=0.05, max_seconds=0.5)
        assert found.roofline is not None
        assert 0 < found.roofline["explained"] < 1.1, allowed
