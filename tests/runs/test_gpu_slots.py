"""Trials on GPUs, without one: who gets which device, and what becomes of a trial whose device fails."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from inline import run_here
from test_local_executor import double

from naslab.efficiency.device import current, is_lost, resolve_device, resolve_kind
from naslab.runs import worker
from naslab.runs.executors import LocalExecutor, WorkerDied
from naslab.runs.ledger import Ledger
from naslab.runs.study import load_study
from naslab.runs.trial import Job

CUDA = torch.device("cuda:0")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_slots_are_dealt_out_over_all_gpus(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert resolve_device(name) == CUDA
    executor = LocalExecutor(4, resolve_kind(name))
    try:
        assert [slot.device for slot in executor._slots] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
        assert executor.shares == {"cuda:0": 1 / 2, "cuda:1": 1, "cuda:2": 1}
        assert executor.submit(double, 1).result()[1].startswith("cuda:")
    finally:
        executor.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("device", "share"), [("cpu", 1.0), ("cuda:1", 1 / 2)])
def test_slots_share_a_gpu_and_not_a_cpu(device, share):
    executor = LocalExecutor(2, torch.device(device))
    try:
        assert executor.shares == {device: share}
    finally:
        executor.shutdown(cancel_futures=True)


def test_a_gpu_that_was_named_is_the_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert resolve_kind("cuda:2") == resolve_device("cuda:2") == torch.device("cuda:2")


def test_the_device_is_the_current_one_inside(monkeypatch):
    entered = []

    @contextmanager
    def device(place):
        entered.append(place)
        yield
        entered.append("left")

    monkeypatch.setattr(torch.cuda, "device", device)
    with current(torch.device("cuda:1")):
        assert entered == [torch.device("cuda:1")]
    with current(torch.device("cpu")):
        pass
    assert entered == [torch.device("cuda:1"), "left"]


@pytest.mark.parametrize(
    ("problem", "answers", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), False, False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False, True),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_EXECUTION_FAILED"), False, True),
        (ValueError("no"), True, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_lost_device_is_told_from_a_failed_trial(problem, answers, lost, monkeypatch):
    def synchronize(device):
        if not answers:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert is_lost(CUDA, problem) is lost
    assert not is_lost(torch.device("cpu"), problem)


@pytest.fixture
def on_a_gpu(monkeypatch, tmp_path):
    """Run a job whose every step raises, on a GPU that is not there; the memory handed back is noted."""
    handed = []

    def run(problem):
        def fail(*_):
            raise problem

        monkeypatch.setattr(worker, "resolve_device", lambda name: CUDA)
        monkeypatch.setattr(torch.cuda, "device", lambda place: nullcontext())
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(worker, "hand_back", handed.append)
        monkeypatch.setattr(worker, "_study_and_task", fail)
        job = Job("control", "control", "chance", 0)
        return worker.run_job({}, job, tmp_path / "job", tmp_path / "log", "cuda:0", 1, shares={"cuda:0": 0.5})

    run.handed = handed
    return run


def test_an_error_that_stays_ends_the_worker_and_not_the_trial(on_a_gpu):
    with pytest.raises(WorkerDied, match="illegal memory access"):
        on_a_gpu(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert on_a_gpu.handed == [CUDA]


def test_a_full_memory_is_an_interruption_and_is_handed_back(on_a_gpu):
    outcome, _ = on_a_gpu(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert (outcome.state, outcome.cause) == ("interrupted", "memory")
    assert "out of memory" in outcome.error
    assert on_a_gpu.handed == [CUDA]


def test_a_failure_of_its_own_is_the_trials(on_a_gpu):
    outcome, _ = on_a_gpu(ValueError("no"))
    assert (outcome.state, outcome.cause, outcome.device_share) == ("failed", None, 0.5)


def lose_the_device(device):
    raise WorkerDied("the device is lost to its process: CUDA error")


def test_the_worker_of_a_lost_device_is_replaced():
    executor = LocalExecutor(1, torch.device("cpu"))
    try:
        first = executor._slots[0]._process.pid
        with pytest.raises(WorkerDied, match="lost to its process"):
            executor.submit(lose_the_device).result()
        assert executor.submit(double, 2).result() == (4, "cpu")
        assert executor._slots[0]._process.pid != first
    finally:
        executor.shutdown(cancel_futures=True)


@pytest.mark.parametrize("full", [1, 9], ids=["once", "always"])
def test_out_of_memory_is_tried_once_more_and_then_is_the_trials_own(full, toy_file, monkeypatch):
    """A trial that found the memory full is tried again, alone, and fails if it still is."""
    whole, seen = worker._Work.run, []

    def run(self, study, task):
        if self.job.role == "reference":
            seen.append(self.job.key)
            if seen.count(self.job.key) <= full:
                raise torch.OutOfMemoryError("CUDA out of memory")
        whole(self, study, task)

    monkeypatch.setattr(worker._Work, "run", run)
    ledger = run_here(Ledger.start("runs.db", load_study(toy_file(arms=[], random_architectures=0, seeds=[0]))))
    tried = [t for t in ledger.trials() if t.job.role == "reference"]
    assert [(t.state, t.cause) for t in tried] == [
        ("interrupted", "memory"),
        ("complete", None) if full == 1 else ("failed", "memory"),
    ]
