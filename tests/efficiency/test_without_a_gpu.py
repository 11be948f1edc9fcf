"""What the measurements do on a GPU, found out without one, by stand-ins for the driver and for torch.cuda."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from naslab.efficiency import calibration, kernel_table, memory
from naslab.efficiency.calibration import tf32, tf32_kinds
from naslab.efficiency.flop_count import Operation
from naslab.efficiency.kinds import CONVOLUTION, MATRIX_PRODUCT
from naslab.efficiency.nvml import answers, device_handle
from naslab.efficiency.provenance import collect_provenance
from naslab.efficiency.roofline import Roof
from naslab.efficiency.surroundings import random_states_kept, seeded
from naslab.efficiency.work import Work

CUDA = torch.device("cuda:1")


@pytest.fixture
def settings():
    """Torch's settings for TF32, which are afterwards as before; the older one, "highest", is that of a CPU, too."""
    matmul, convolutions, on_cpu = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul
    before = matmul.fp32_precision, convolutions.fp32_precision, on_cpu.fp32_precision
    yield matmul, convolutions
    torch.set_float32_matmul_precision("highest")
    matmul.fp32_precision, convolutions.fp32_precision, on_cpu.fp32_precision = before


@pytest.mark.parametrize("allowed", [True, False])
def test_whoever_reads_the_older_setting_inside_gets_an_answer(allowed, settings):
    matmul, _ = settings
    for before in ("highest", "high"):
        torch.set_float32_matmul_precision(before)
        found = matmul.fp32_precision
        with tf32(allowed, CUDA):
            assert matmul.allow_tf32 is allowed
            assert matmul.fp32_precision == ("tf32" if allowed else "ieee")
        assert torch.get_float32_matmul_precision() == before
        assert matmul.fp32_precision == found


def test_convolutions_and_products_have_settings_of_their_own(settings):
    matmul, convolutions = settings
    matmul.fp32_precision, convolutions.fp32_precision = "ieee", "tf32"
    assert CONVOLUTION in tf32_kinds()
    assert MATRIX_PRODUCT not in tf32_kinds()
    matmul.fp32_precision, convolutions.fp32_precision = "tf32", "ieee"
    assert CONVOLUTION not in tf32_kinds()
    assert MATRIX_PRODUCT in tf32_kinds()


def test_a_ceiling_is_that_of_the_format_in_which_the_operation_may_run():
    roof = Roof("gpu", {"float32": 10.0, "tf32": 80.0, "bfloat16": 160.0}, 1.0, True, (CONVOLUTION,))

    def seconds(kind, dtype):
        return roof.compute_seconds(Operation("x", kind, "forward", (), dtype, Work(contraction=160), 0, 1, True))

    assert seconds(CONVOLUTION, torch.float32) == 2
    assert seconds(MATRIX_PRODUCT, torch.float32) == 16
    assert seconds(CONVOLUTION, torch.bfloat16) == 1


class Nvml:
    """A driver that knows parts of GPUs and has no answer to some questions."""

    NVMLError = type("NVMLError", (Exception,), {})
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    __spec__ = None

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid.startswith("GPU-"):
            raise self.NVMLError("not found")
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, part):
        return f"whole of {part}"

    def nvmlSystemGetDriverVersion(self):
        return "580"

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return 1980

    def nvmlDeviceGetPowerManagementLimit(self, handle):
        raise self.NVMLError("not supported")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return 4


@pytest.fixture
def a_part_of_a_gpu(monkeypatch):
    properties = SimpleNamespace(uuid="1234", total_memory=2**34)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 MIG 1g.10gb")
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())


def test_a_part_of_a_gpu_is_read_at_the_whole(a_part_of_a_gpu):
    assert device_handle(Nvml(), CUDA) == "whole of MIG-1234"


def test_a_question_without_an_answer_leaves_the_others_theirs(a_part_of_a_gpu):
    gpu = collect_provenance(CUDA).gpu
    assert gpu["power_limit_watts"] is None
    assert (gpu["driver"], gpu["sm_clock_mhz"], gpu["throttle_reasons"]) == ("580", 1980, 4)
    nvml = Nvml()
    assert answers(nvml, {"limit": lambda: nvml.nvmlDeviceGetPowerManagementLimit(0)}) == {"limit": None}


def test_random_states_of_other_gpus_are_left_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or torch.ByteTensor([1]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append(device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with random_states_kept(CUDA, torch.device("cpu"), CUDA):
        pass
    assert asked == [CUDA, CUDA]


def test_a_seed_given_for_one_gpu_reaches_no_other(monkeypatch):
    states, current = {0: "as found", 1: "as found"}, []

    @contextmanager
    def on(device):
        current.append(device.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: states.update({current[-1]: seed}))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: states.update(dict.fromkeys(states, seed)))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device.index])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device.index: state}))
    for devices in ((), (CUDA,)):
        before = torch.get_rng_state()
        with seeded(5, *devices):
            assert states == {0: "as found", 1: 5 if devices else "as found"}
            drawn = torch.rand(3)
        assert torch.equal(torch.get_rng_state(), before)
        assert states == {0: "as found", 1: "as found"}
        assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("gibibytes", [1, 8])
def test_a_calibration_is_sized_to_the_card(gibibytes, monkeypatch):
    """All that it holds at once, matrices of every format and the copied block, leaves a third of the memory."""
    monkeypatch.setattr(calibration, "_free_bytes", lambda device: gibibytes * 2**30)
    monkeypatch.setattr(calibration, "_time", lambda call, device, burst: 1e-9)
    made = []
    monkeypatch.setattr(calibration, "_matmul", lambda side, dtype, device: made.append(3 * side**2 * dtype.itemsize))
    probes = list(calibration._matmul_probes(torch.device("cpu"), 1.0))
    held = sum(3 * probe.size**2 * getattr(torch, probe.dtype).itemsize for probe in probes)
    assert max(made) <= gibibytes * 2**30 / 16
    assert held + gibibytes * 2**30 / 4 < 2 / 3 * gibibytes * 2**30


def test_bandwidth_and_tuning_read_the_kernel_clock(monkeypatch):
    clocks = []
    monkeypatch.setattr(kernel_table, "kernel_clock", lambda device: f"kernel clock of {device}")
    monkeypatch.setattr(
        kernel_table, "measure_latency", lambda *_, clock, **__: clocks.append(clock) or SimpleNamespace(median=1.0)
    )
    kernel_table.copy_bandwidth(torch.device("cpu"))
    kernel_table.time_ms(SimpleNamespace(step=None, leaves=()), torch.device("cpu"), 1.0)
    assert clocks == ["kernel clock of cpu"] * 2


def test_a_peak_is_the_models_own(monkeypatch):
    """What the process held before, and what the allocator had reserved for that, is not in it."""
    model, inputs, others, grown = torch.nn.Linear(8, 8), torch.ones(4, 8), 10**9, 4096
    own = memory.parameter_bytes(model) + 4 * 8 * 4
    monkeypatch.setattr(memory, "device_of", lambda *_: CUDA)
    for name, value in {
        "memory_allocated": others + own,
        "memory_reserved": others + 2**21,
        "max_memory_allocated": others + own + grown,
        "max_memory_reserved": others + 2**22,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    for name in ("empty_cache", "synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    assert memory.peak_memory(model, inputs) == (own + grown, own + 2**21)
