"""Threads come from what the process was given."""

import os
import subprocess
import sys

import pytest
from synthetic_study import make_study

from naslab.runs import threads
from naslab.runs.dry_run import slot_words
from naslab.runs.threads import let_threads_sleep, threads_per_slot, usable_cores


def control_group(root, line, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(line + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(threads._quotas(root))


@pytest.mark.parametrize(
    ("line", "files", "quotas"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, [1.5]),
        ("0::/", {"cpu.max": "max 100000"}, []),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, [2.0]),
        ("4:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "100000"}, [0.5]),
        ("4:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, []),
        ("3:memory:/x", {"cpu.max": "100000 100000"}, []),
    ],
)
def test_the_quota_of_a_control_group_is_read(tmp_path, line, files, quotas):
    assert control_group(tmp_path, line, files) == quotas


def test_affinity_bounds_the_cores_and_a_quota_bounds_them_further(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr(threads, "_quotas", lambda root: iter(()))
    assert usable_cores() == 6
    monkeypatch.setattr(threads, "_quotas", lambda root: iter((8.0, 2.5)))
    assert usable_cores() == 2
    monkeypatch.setattr(threads, "_quotas", lambda root: iter((0.5,)))
    assert usable_cores() == 1


def test_slots_share_the_cores_unless_the_user_says_how_many_threads(monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_per_slot(slots) for slots in (1, 2, 4, 12)] == [6, 3, 1, 1]
    for text, number in (("1", 1), ("4,2", 4), ("none", 6)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert threads_per_slot(1) == number


@pytest.mark.parametrize(
    ("chosen", "turns"), [({}, "1000"), ({"OMP_WAIT_POLICY": "active"}, None), ({"GOMP_SPINCOUNT": "7"}, "7")]
)
def test_threads_that_wait_sleep_unless_the_user_has_chosen(monkeypatch, chosen, turns):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that the end of the test takes away what the function sets
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    let_threads_sleep()
    assert os.environ.get("GOMP_SPINCOUNT") == turns


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: what workers are copies of is a process there")
def test_workers_are_copies_of_a_process_whose_threads_sleep():
    """The library reads the variable when PyTorch is imported, so the process has to be started with it."""
    program = (
        "import os\n"
        "from naslab.runs.executors import process\n"
        "process.prepare_copies()\n"
        "with process._CONTEXT.Pool(1) as copies: print(copies.apply(os.getenv, ('GOMP_SPINCOUNT',)))"
    )
    without = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", program], env=without, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == "1000"


@pytest.mark.parametrize(
    ("cores", "slots", "changes", "said"),
    [
        (8, 1, {}, "1 trial at once, 8 threads each; --slots 8 runs 8 at once"),
        (8, 3, {}, "3 trials at once, 2 threads each; --slots 6 runs 6 at once"),
        (8, 8, {}, None),
        (1, 1, {}, None),
        (8, 1, {"executor": {"kind": "ray"}}, None),
    ],
)
def test_a_dry_run_says_how_many_trials_the_cores_would_take(monkeypatch, cores, slots, changes, said):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    words = slot_words(make_study(device="cpu", **changes), slots)
    assert words is None if said is None else said in words
