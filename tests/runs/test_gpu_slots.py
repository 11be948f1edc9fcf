"""Trials on GPUs, without one: who gets which device, and what becomes of a trial whose device fails."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from calls import double, pid, seen
from inline import run_here

from naslab.efficiency.device import current, is_lost, resolve_device, resolve_kind
from naslab.errors import InputError
from naslab.runs import worker
from naslab.runs.executors import LocalExecutor, Slot, WorkerDied
from naslab.runs.executors.slots import local_slots, visible_gpus
from naslab.runs.ledger import Ledger
from naslab.runs.study import load_study
from naslab.runs.trial import Job

CUDA = torch.device("cuda:0")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_slots_are_dealt_out_over_all_gpus(name, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert resolve_device(name) == CUDA
    slots = local_slots(4, name)
    assert [slot.device for slot in slots] == ["cuda:0"] * 4, "each worker sees its own GPU alone"
    assert [slot.gpus for slot in slots] == [("0",), ("1",), ("2",), ("0",)]
    assert [slot.share for slot in slots] == [1 / 2, 1, 1, 1 / 2]


@pytest.mark.parametrize(
    ("named", "pool"),
    [
        (None, ("0", "1", "2")),
        ("2,0", ("2", "0")),
        ("GPU-11, GPU-22", ("GPU-11", "GPU-22")),
        ("1,-1,0", ("1",)),
        ("MIG-a,MIG-b,MIG-c,MIG-d", ("MIG-a", "MIG-b", "MIG-c", "MIG-d")),
    ],
)
def test_the_pool_is_what_the_environment_says(named, pool, monkeypatch):
    """A process sees one MIG instance at most: torch counts one, whatever is named."""
    counted = 3 if named is None else 1 if "MIG" in named else len(pool)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: counted)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == pool
    assert [slot.gpus for slot in local_slots(len(pool), "cuda")] == [(name,) for name in pool]


@pytest.mark.parametrize(
    ("slots", "gpus", "processes", "seen", "share", "room"),
    [
        (2, 2, 1, [("0", "1"), ("2", "3")], 2, 2),
        (2, None, 2, [("0", "1"), ("2", "3")], 2, 2),
        (6, 0.5, 1, [("0",), ("1",), ("2",), ("3",), ("0",), ("1",)], 0.5, 8),
        (1, 0.3, 1, [("0",)], 0.3, 12),
    ],
)
def test_several_gpus_or_a_fraction_of_one_a_trial(slots, gpus, processes, seen, share, room, monkeypatch):
    """A trial's fraction is of one GPU: four have room for 12 times 0.3, not for 13."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    dealt = local_slots(slots, "cuda", gpus, processes)
    assert [slot.gpus for slot in dealt] == seen
    assert {slot.share for slot in dealt} == {share}
    assert {slot.processes for slot in dealt} == {processes}
    assert len(local_slots(room, "cuda", gpus, processes)) == room
    with pytest.raises(InputError, match=rf"executor\.gpus: .* room for {room} at once"):
        local_slots(room + 1, "cuda", gpus, processes)


def test_a_trial_has_a_mig_instance_or_a_part_of_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [slot.gpus for slot in local_slots(4, "cuda", gpus=0.5)] == [("MIG-a",), ("MIG-b",)] * 2
    for more in ({"gpus": 2}, {"processes": 2}):
        with pytest.raises(InputError, match=r"executor\.gpus: 2 a trial, and a process sees one MIG instance"):
            local_slots(1, "cuda", **more)


def test_slots_of_a_cpu_share_nothing():
    assert {slot.share for slot in local_slots(3, "cpu")} == {1.0}
    with pytest.raises(InputError, match="the study runs on the CPU"):
        local_slots(1, "cpu", gpus=0.5)


def test_a_worker_sees_its_slots_gpus_alone():
    executor = LocalExecutor([Slot("cpu", gpus=("GPU-1", "GPU-2")), Slot("cpu", gpus=("MIG-3",))])
    try:
        found = {executor.submit(seen, "CUDA_VISIBLE_DEVICES").result() for _ in range(20)}
        assert found <= {(",".join(slot.gpus), slot) for slot in executor.slots}
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
        monkeypatch.setattr(worker, "device_name", str)
        monkeypatch.setattr(worker, "_study_and_task", fail)
        job = Job("control", "control", "chance", 0)
        return worker.run_job({}, job, tmp_path / "job", tmp_path / "log", Slot("cuda:0", 0.5, threads=1))

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


def lose_the_device(slot):
    raise WorkerDied("the device is lost to its process: CUDA error")


def test_the_worker_of_a_lost_device_is_replaced():
    executor = LocalExecutor(local_slots(1, "cpu"))
    try:
        first = executor.submit(pid).result()
        with pytest.raises(WorkerDied, match="lost to its process"):
            executor.submit(lose_the_device).result()
        assert executor.submit(double, 2).result() == (4, "cpu")
        assert executor.submit(pid).result() != first
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
