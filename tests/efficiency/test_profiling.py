"""The profile as a whole: its document, its promises about the model, its provenance."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import nn

from naslab.efficiency import EfficiencyProfile, InputError, collect_provenance, device_name, profile, resolve_device

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schemas" / "profile.json").read_text())
QUICK = {"min_seconds": 0.02, "max_seconds": 0.05}


def network():
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Dropout(0.3), nn.Linear(10, 4))


def test_document_keeps_its_schema_and_reads_back():
    measured = profile(network(), torch.randn(5, 6), target="mlp", **QUICK)
    document = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA)
    assert EfficiencyProfile.from_dict(document) == measured
    with pytest.raises(ValueError, match="is not 'naslab"):
        EfficiencyProfile.from_dict(document | {"schema": "naslab.profile/0"})


def test_figures():
    measured = profile(network(), torch.randn(5, 6), target="mlp", **QUICK)
    assert (measured.target, measured.batch_size, measured.dtype) == ("mlp", 5, "float32")
    assert measured.parameters == 70 + 20 + 44
    assert measured.parameter_bytes == 4 * measured.parameters
    assert measured.flops.forward == measured.flops.effective_forward == 2 * 5 * (60 + 40)
    assert measured.flops.training_step == 3 * measured.flops.forward - 2 * 5 * 60
    assert measured.throughput == pytest.approx(5e3 / measured.latency_ms.median)
    assert measured.peak_memory_bytes > measured.parameter_bytes


def test_the_model_is_left_as_it_was():
    model = network()
    model[2].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random_state = torch.get_rng_state()
    profile(model, torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), **QUICK)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_number_format_is_cast_in_a_copy():
    model = network()
    measured = profile(model, torch.randn(5, 6), dtype=torch.bfloat16, **QUICK)
    assert (measured.dtype, measured.provenance.dtype) == ("bfloat16", "bfloat16")
    assert measured.parameter_bytes == 2 * measured.parameters
    assert model[0].weight.dtype == torch.float32


def test_several_and_named_inputs():
    class Sum(nn.Module):
        def forward(self, left, right):
            return left @ right

    left, right = torch.randn(3, 4), torch.randn(4, 5)
    by_position = profile(Sum(), (left, right), **QUICK)
    by_name = profile(Sum(), {"right": right, "left": left}, **QUICK)
    assert by_position.flops.forward == by_name.flops.forward == 2 * 3 * 4 * 5
    assert by_position.flops.training_step is None


def test_a_compiled_model_is_timed_compiled_and_counted_eager():
    model = nn.Linear(6, 3)
    measured = profile(torch.compile(model, backend="eager"), torch.ones(4, 6), **QUICK)
    assert (measured.target, measured.provenance.compile_mode) == ("Linear", "torch.compile")
    assert measured.flops.forward == 2 * 4 * 6 * 3


def test_batch_norm_of_one_sample_has_no_training_step_but_a_profile():
    measured = profile(network(), torch.randn(1, 6), **QUICK)
    assert measured.flops.training_step is None
    jsonschema.validate(measured.to_dict(), SCHEMA)


def test_provenance_names_machine_versions_and_commit():
    found = collect_provenance(torch.device("cpu"))
    assert found.device == device_name(torch.device("cpu")) == f"cpu: {found.cpu_model}"
    assert (found.torch, found.torch_threads) == (torch.__version__, torch.get_num_threads())
    assert found.commit is None or len(found.commit.removesuffix("-dirty")) == 40
    assert found.gpu == {}


def test_devices_by_name():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device().type in ("cpu", "cuda")
    with pytest.raises(InputError, match=r"tpu.*use auto, cpu, cuda"):
        resolve_device("tpu")
    with pytest.raises(InputError, match=r"cuda:99.*not there"):
        resolve_device("cuda:99")


def test_three_lines_of_a_script_are_enough(capsys):
    lines = (
        "import torch",
        "from naslab.efficiency import profile",
        "print(profile(torch.nn.Linear(3, 4), torch.ones(2, 3)).flops.forward)",
    )
    exec("\n".join(lines), {})
    assert capsys.readouterr().out == "48\n"
