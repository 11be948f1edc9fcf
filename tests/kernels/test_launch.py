"""How a kernel is launched, on GPUs that are not there."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from naslab.kernels import _dispatch, _similarity_tiles, _triton
from naslab.kernels._triton import Launch, launch


@pytest.fixture
def kernel():
    """A kernel that has been compiled, whose launches are written down with the GPU that was current."""
    seen, current = [], []
    made = _triton.Kernel(lambda: None)
    made.jitted = {(4,): lambda *arguments, **constants: seen.append((current[-1] if current else None, constants))}
    made.seen, made.current = seen, current
    return made


def test_a_kernel_runs_on_the_gpu_of_its_tensors(kernel, monkeypatch):
    """Triton launches on the current device, which need not be that of the tensors."""

    @contextmanager
    def device(chosen):
        kernel.current.append(chosen)
        yield
        kernel.current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    with FakeTensorMode():
        for name in ("cuda:1", "cuda:0"):
            kernel[(4,)](3, torch.empty(2, device=name), BLOCK=16)
    assert kernel.seen == [(torch.device("cuda:1"), {"BLOCK": 16}), (torch.device("cuda:0"), {"BLOCK": 16})]
    assert kernel.current == []


def test_the_interpreter_needs_no_gpu(kernel):
    kernel[(4,)](torch.empty(2), BLOCK=16)
    assert kernel.seen == [(None, {"BLOCK": 16})]


def test_a_device_is_asked_once_what_it_is(monkeypatch, tmp_path):
    pytest.importorskip("triton")
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path))
    asked = []
    answers = {"get_device_properties": SimpleNamespace(major=9, minor=0), "get_device_name": "NVIDIA Toy"}
    for question, answer in answers.items():
        monkeypatch.setattr(torch.cuda, question, lambda device, a=answer, q=question: asked.append(q) or a)
    remembered = (_triton.architecture, _triton.device_key, _triton._tuned)
    for function in remembered:
        function.cache_clear()
    sizes = {"any": Launch(64), "sm_90": Launch(128)}
    assert [launch("toy", torch.device("cuda:3"), sizes).block for _ in range(5)] == [128] * 5
    assert sorted(asked) == sorted(answers)
    for function in remembered:
        function.cache_clear()


@pytest.mark.parametrize(("on_gpu", "eager", "compiled"), [("always", 1, 1), ("eager", 1, 0), ("never", 0, 0)])
def test_a_kernel_runs_on_a_gpu_where_it_was_measured_to_pay(on_gpu, eager, compiled, monkeypatch):
    monkeypatch.setattr(_dispatch, "has_triton", lambda: True)
    with FakeTensorMode():
        tensor = torch.empty(8, device="cuda")
        assert _dispatch.fused(tensor, 0, on_gpu=on_gpu) == bool(eager)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert _dispatch.fused(tensor, 0, on_gpu=on_gpu) == bool(compiled)


def test_similarities_run_on_a_gpu_in_half_precision_and_narrow_rows():
    assert _similarity_tiles.on_gpu(torch.empty(4, 128, dtype=torch.bfloat16)) == "always"
    assert _similarity_tiles.on_gpu(torch.empty(4, 128)) == "never"
    assert _similarity_tiles.on_gpu(torch.empty(4, 256, dtype=torch.float16)) == "never"


@pytest.mark.parametrize("home", ["/dev/null", ""])
def test_triton_has_a_folder_where_there_is_no_home(home, tmp_path):
    code = (
        "import os\n"
        "from naslab.kernels._triton import give_triton_a_folder\n"
        "give_triton_a_folder()\n"
        "print(os.environ.get('TRITON_CACHE_DIR', ''))"
    )
    known = {name: value for name, value in os.environ.items() if not name.startswith("TRITON")}
    place = {"HOME": home or str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=known | place, capture_output=True, text=True)
    folder = done.stdout.strip()
    assert bool(folder) == (home == "/dev/null"), done.stderr
    assert not folder or not Path(folder).exists(), "it goes with its process"
