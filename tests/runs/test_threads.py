"""Threads come from what the process was given."""

import os

import pytest

from naslab.runs import threads
from naslab.runs.threads import threads_per_slot, usable_cores


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
