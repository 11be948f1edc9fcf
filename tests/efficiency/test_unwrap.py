"""Wrapped, compiled, sharded, exported and quantised modules: opened and counted the same, or refused with a reason."""

import os

import pytest
import torch
from torch import nn

from naslab.efficiency import InputError, count_forward, profile
from naslab.efficiency.unwrap import eager

INPUTS = torch.ones(4, 8)
FLOPS = 2 * 4 * (8 * 16 + 16 * 4)
PARAMETERS = 8 * 16 + 16 + 16 * 4 + 4
QUICK = {"min_seconds": 0.01, "max_seconds": 0.02}


def network():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def with_a_part(change):
    model = network()
    model[0] = change(model[0])
    return model


def compiled(module):
    return torch.compile(module, backend="eager")


def quantised_dynamic():
    return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})


def quantised_static():
    ao = torch.ao.quantization
    model = nn.Sequential(ao.QuantStub(), network(), ao.DeQuantStub()).eval()
    model.qconfig = ao.get_default_qconfig("x86")
    prepared = ao.prepare(model)
    prepared(INPUTS)
    return ao.convert(prepared)


@pytest.fixture
def process_group(tmp_path):
    if torch.distributed.is_initialized():
        pytest.skip("another process group is there")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("wrap", "mode"),
    [
        (nn.DataParallel, "eager"),
        (compiled, "torch.compile"),
        (lambda model: nn.DataParallel(compiled(model)), "torch.compile"),
        (lambda model: with_a_part(compiled), "torch.compile"),
        (lambda model: with_a_part(torch.jit.script), "eager"),
        (torch.fx.symbolic_trace, "eager"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_wrapped_models_have_the_counts_of_what_is_inside(wrap, mode):
    measured = profile(wrap(network()), INPUTS, **QUICK)
    assert (measured.flops.forward, measured.parameters, measured.coverage) == (FLOPS, PARAMETERS, 1.0)
    assert measured.flops.training_step == 3 * FLOPS - 2 * 4 * 8 * 16
    assert measured.provenance.compile_mode == mode


def test_distributed_and_sharded(process_group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    wrapped = nn.parallel.DistributedDataParallel(network())
    assert count_forward(wrapped, INPUTS).total == FLOPS
    mesh = init_device_mesh("cpu", (1,))
    part = network()
    fully_shard(part[0], mesh=mesh)
    whole = network()
    fully_shard(whole, mesh=mesh)
    for sharded in (part, whole):
        with pytest.raises(InputError, match=r"FSDP.*profile it before sharding"):
            profile(sharded, INPUTS, **QUICK)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_hides_its_operations_is_refused_before_anything_runs():
    with pytest.raises(InputError, match="TorchScript"):
        profile(torch.jit.trace(network(), INPUTS), INPUTS, **QUICK)
    with pytest.raises(InputError, match="exported program"):
        eager(torch.export.export(network(), (INPUTS,)).module())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("quantised", [quantised_dynamic, quantised_static])
def test_quantised_layers_keep_their_counts_and_their_weights(quantised):
    measured = profile(quantised(), INPUTS, **QUICK)
    assert (measured.flops.forward, measured.parameters) == (FLOPS, PARAMETERS)
    assert measured.parameter_bytes == (8 * 16 + 16 * 4) + 4 * (16 + 4)
    assert (measured.dtype, measured.flops.training_step) == ("qint8", None)


def test_parts_that_are_called_weight_or_bias_are_not_taken_for_packed_ones():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Bilinear(3, 3, 3)
            self.linear = nn.Linear(3, 3)

        def weight(self, x):
            return self.linear(x)

        def forward(self, x):
            return self.bias(x, self.weight(x))

    assert profile(Named(), torch.zeros(2, 3), **QUICK).parameters == 27 + 3 + 9 + 3
