"""Ceilings are plausible, made of the samples kept beside them, and survive the disk; torch is left as it was."""

import json
import math
import statistics
from functools import partial

import numpy as np
import pytest
import torch

from naslab.efficiency import InputError
from naslab.efficiency.calibration import calibrate, ceilings_path, load_ceilings, tf32, tf32_allowed
from naslab.efficiency.ceilings import Samples
from naslab.efficiency.targets import steps_path

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("NASLAB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def measured():
    settings = (torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.is_grad_enabled())
    state = torch.random.get_rng_state()
    ceilings = calibrate(CPU, seconds=1.0)
    assert settings == (torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.is_grad_enabled())
    assert torch.equal(torch.random.get_rng_state(), state)
    return ceilings


def test_ceilings_are_the_medians_of_their_samples(measured):
    for dtype, rate in measured.flops_per_second.items():
        series = [s for s in measured.samples if s.kind == "matmul" and s.dtype == dtype]
        assert rate == max(2 * s.size**3 / np.median(s.seconds) for s in series)
    copy, dispatch = measured.samples[-2:]
    assert (copy.kind, dispatch.kind) == ("copy", "dispatch")
    assert measured.bytes_per_second == 2 * copy.size / np.median(copy.seconds)
    assert measured.dispatch_seconds == np.median(dispatch.seconds)
    assert len({len(s.seconds) for s in measured.samples}) == 1  # in turn: as many of each
    assert len(copy.seconds) >= 3


def test_ceilings_are_of_this_world(measured):
    assert set(measured.flops_per_second) == {"float32", "bfloat16", "float16"}
    assert 1e6 < measured.flops_per_second["float32"] < 1e14
    assert 1e6 < measured.bytes_per_second < 1e13
    assert 1e-8 < measured.dispatch_seconds < 1e-1
    assert measured.tf32_allowed is None
    assert measured.provenance.torch_threads == torch.get_num_threads()


def test_the_ceiling_is_the_best_of_its_samples_in_flops_and_bytes(measured):
    products = [s for s in measured.samples if (s.kind, s.dtype) == ("matmul", "float32")]
    rates = [2 * s.size**3 / statistics.median(s.seconds) for s in products]
    assert measured.flops_per_second["float32"] == pytest.approx(max(rates))
    copies = [2 * s.size / statistics.median(s.seconds) for s in measured.samples if s.kind == "copy"]
    assert measured.bytes_per_second == pytest.approx(max(copies))


def test_saved_and_loaded_again(measured, cache):
    assert load_ceilings(CPU) is None
    path = measured.save()
    assert path == ceilings_path(CPU)
    assert path.is_relative_to(cache / "naslab" / "devices")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert load_ceilings(CPU) == measured


def test_another_number_of_threads_is_another_device(measured, monkeypatch):
    measured.save()
    monkeypatch.setattr(torch, "get_num_threads", lambda: measured.provenance.torch_threads + 1)
    assert load_ceilings(CPU) is None


def test_an_interrupted_save_leaves_the_old_file_whole(measured, monkeypatch):
    path = measured.save()
    before = path.read_text()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InputError, match="No space left on device"):
        measured.save()
    assert path.read_text() == before
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: "{", "Expecting"),
        (lambda d: "[]", "naslab.calibration/1"),
        (lambda d: json.dumps({**d, "schema": "naslab.calibration/9"}), "naslab.calibration/1"),
        (lambda d: json.dumps({k: v for k, v in d.items() if k != "samples"}), "'samples' is missing"),
        (lambda d: json.dumps({**d, "bytes_per_second": -1}), "-1 is not a positive number"),
        (lambda d: json.dumps({**d, "dispatch_seconds": math.inf}), "inf is not a positive number"),
        (lambda d: json.dumps({**d, "flops_per_second": {"float32": None}}), "None is not a positive number"),
        (lambda d: json.dumps({**d, "provenance": {"device": "x"}}), "missing"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(measured, change, message):
    path = measured.save()
    path.write_text(change(measured.to_dict()))
    with pytest.raises(InputError, match=message) as caught:
        load_ceilings(CPU)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rates_count_both_factors_and_both_directions():
    assert Samples("matmul", "float32", 10, (0.5, 1.0, 9.0)).rate == 2000
    assert Samples("copy", "uint8", 100, (0.5, 1.0, 9.0)).rate == 200
    samples = Samples("dispatch", "float32", 1, tuple(np.linspace(1, 2, 11)))
    assert samples.rate_at(10) > samples.rate > samples.rate_at(90)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "none"])
@pytest.mark.parametrize("on_cpu", ["ieee", "tf32", "none"])
def test_torchs_settings_for_tf32_come_back_after_an_error_too(precision, on_cpu):
    gpu, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = gpu.fp32_precision, cpu.fp32_precision
    try:
        gpu.fp32_precision, cpu.fp32_precision = precision, on_cpu
        found = gpu.fp32_precision, cpu.fp32_precision
        for allowed in (True, False):
            with pytest.raises(RuntimeError, match=f"inside {allowed}"):
                fail_inside(allowed)
            assert (gpu.fp32_precision, cpu.fp32_precision) == found
        with tf32(True, CPU):
            assert (gpu.fp32_precision, cpu.fp32_precision) == found
    finally:
        gpu.fp32_precision, cpu.fp32_precision = before


WIDER = (torch.backends, torch.backends.cudnn)
PARTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
SET = {
    "nothing": lambda: None,
    **{f"older {value}": partial(torch.set_float32_matmul_precision, value) for value in ("highest", "high", "medium")},
    **{
        f"{number} {value}": partial(setattr, part, "fp32_precision", value)
        for number, part in enumerate((*WIDER, *PARTS))
        for value in ("ieee", "tf32", "none")
    },
    "of the CPU bf16": partial(setattr, PARTS[1], "fp32_precision", "bf16"),
}


@pytest.fixture
def settings_as_they_were():
    parts = (*WIDER, *PARTS)
    before = [part.fp32_precision for part in parts]
    yield
    torch.set_float32_matmul_precision("highest")
    for part, precision in zip(parts, before, strict=True):
        part.fp32_precision = precision


def said(ask):
    try:
        return ask()
    except RuntimeError:
        return "refused: the older and the newer settings disagree"


def all_that_torch_says():
    """By the older and the newer ways to ask, now and after the widest setting was changed."""
    asked = [torch.get_float32_matmul_precision, lambda: torch.backends.cuda.matmul.allow_tf32]
    asked += [partial(getattr, part, "fp32_precision") for part in (*WIDER, *PARTS)]
    found, widest = [said(ask) for ask in asked], torch.backends.fp32_precision
    for value in ("ieee", "tf32"):
        torch.backends.fp32_precision = value
        found += [said(ask) for ask in asked]
    torch.backends.fp32_precision = widest
    return found


@pytest.mark.parametrize("first", SET)
def test_whatever_was_set_in_torch_and_how_is_as_before(first, settings_as_they_were):
    for second in SET.values():
        SET[first]()
        second()
        found = all_that_torch_says()
        with tf32(True, torch.device("cuda")), tf32(False, torch.device("cuda")):
            assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
        assert all_that_torch_says() == found


def fail_inside(allowed):
    with tf32(allowed, torch.device("cuda")):
        raise RuntimeError(f"inside {tf32_allowed()}")


def test_the_caches_folder_may_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path))
    assert ceilings_path(CPU).parent == tmp_path / "devices"
    assert steps_path(CPU).parent == tmp_path / "step_times"
