"""Joules from counter files and a driver of our own making: wrap-around, other users, and all that may be missing."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from naslab.efficiency import energy
from naslab.efficiency.energy import NoCounter, NvmlCounter, RaplCounter, find_counter, measure_energy

RANGE = 262_143_328_850


@pytest.fixture
def powercap(tmp_path):
    """Two packages, with a core domain inside the first and a platform domain beside them."""
    for zone, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:1": "package-1",
        "intel-rapl:0:0": "core",
        "intel-rapl:2": "psys",
    }.items():
        folder = tmp_path / "powercap" / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
        (folder / "energy_uj").write_text("1000000\n")
    (tmp_path / "powercap" / "intel-rapl").mkdir()
    return tmp_path / "powercap"


def turn(powercap, zone, microjoules):
    (powercap / zone / "energy_uj").write_text(f"{microjoules}\n")


def test_packages_are_added_and_nothing_else(powercap):
    counter = RaplCounter(powercap)
    for zone, joules in {"intel-rapl:0": 5, "intel-rapl:1": 3, "intel-rapl:0:0": 100, "intel-rapl:2": 100}.items():
        turn(powercap, zone, (1 + joules) * 1_000_000)
    assert counter.joules() == pytest.approx(8.0)
    assert counter.joules() == pytest.approx(8.0)


def test_wrap_around(powercap):
    turn(powercap, "intel-rapl:0", RANGE - 2_000_000)
    counter = RaplCounter(powercap)
    turn(powercap, "intel-rapl:0", 1_500_000)
    assert counter.joules() == pytest.approx(3.5)
    turn(powercap, "intel-rapl:0", 2_500_000)
    assert counter.joules() == pytest.approx(4.5)


def test_missing_and_unreadable_counters_say_so(powercap, tmp_path):
    with pytest.raises(NoCounter, match="no RAPL package counter"):
        RaplCounter(tmp_path / "nothing")
    turn(powercap, "intel-rapl:0", "nonsense")
    with pytest.raises(NoCounter, match="energy_uj: not a number"):
        RaplCounter(powercap)
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    (powercap / "intel-rapl:0" / "energy_uj").mkdir()  # unreadable for root, too
    with pytest.raises(NoCounter, match=r"energy_uj: .*only root"):
        RaplCounter(powercap)


def stat(tmp_path, busy_seconds):
    ticks = round(busy_seconds * os.sysconf("SC_CLK_TCK"))
    path = tmp_path / "stat"
    path.write_text(f"cpu  {ticks} 0 0 99999 77777 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    return path


@pytest.mark.parametrize(("busy", "shared"), [(2.0, False), (2.2, True), (10.0, True)])
def test_a_package_is_shared_unless_the_load_is_ours_alone(powercap, tmp_path, monkeypatch, busy, shared):
    ours = iter([50.0, 52.0])
    monkeypatch.setattr(energy, "_own_seconds", lambda: next(ours))
    counter = RaplCounter(powercap, stat(tmp_path, 100.0))
    stat(tmp_path, 100.0 + busy)
    assert counter.shared() is shared


def test_a_machine_that_cannot_be_looked_at_is_shared(powercap, tmp_path):
    assert RaplCounter(powercap, tmp_path / "no-such-file").shared()
    (tmp_path / "stat").write_text("cpu  1 2\n")
    assert RaplCounter(powercap, tmp_path / "stat").shared()


def test_measured_over_repeated_calls(powercap, hand):
    spent = 0

    def work():
        nonlocal spent
        spent += 1
        turn(powercap, "intel-rapl:1", 1_000_000 + 250_000 * spent)
        hand.work(0.01)

    measured = measure_energy(work, seconds=0.2, open_counter=lambda device: RaplCounter(powercap))
    assert measured.joules_per_call == pytest.approx(0.25)
    assert measured.watts == pytest.approx(0.25 * (spent - 1) / measured.seconds)
    assert measured.seconds >= 0.2
    assert (measured.counter, measured.reason) == ("rapl", None)


def test_a_counter_that_wraps_within_a_long_measurement(powercap, hand, monkeypatch):
    monkeypatch.setattr(energy, "READ_EVERY_SECONDS", 0.0)
    step, now, calls = RANGE // 3, 1_000_000, -1

    def work():
        nonlocal now, calls
        now = (now + step) % RANGE if calls >= 0 else now
        calls += 1
        turn(powercap, "intel-rapl:0", now)
        hand.work(0.005)

    measured = measure_energy(work, seconds=0.1, open_counter=lambda device: RaplCounter(powercap))
    assert calls > 6  # two turns at least
    assert measured.joules_per_call == pytest.approx(step / 1e6)


def test_a_counter_that_stands_still_is_no_zero(powercap):
    measured = measure_energy(lambda: None, seconds=0.05, open_counter=lambda device: RaplCounter(powercap))
    assert measured.joules_per_call is None
    assert "did not move" in measured.reason


def test_no_counter_is_none_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    measured = measure_energy(lambda: None)
    assert (measured.joules_per_call, measured.watts, measured.counter) == (None, None, None)
    assert str(tmp_path) in measured.reason


def test_devices_without_a_known_counter():
    with pytest.raises(NoCounter, match="no energy counter is known for meta devices"):
        find_counter(torch.device("meta"))


class FakeNvml:
    """The few functions of pynvml that are used; energy grows by 5 J at each reading."""

    class NVMLError(Exception):
        pass

    def __init__(self, processes, broken=False):
        self.processes, self.broken, self.millijoules = processes, broken, 7_000

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        assert uuid == "GPU-1234"
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if self.broken:
            raise self.NVMLError("Not Supported")
        self.millijoules += 5_000
        return self.millijoules

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        if self.processes is None:
            raise self.NVMLError("No Permission")
        return [SimpleNamespace(pid=pid) for pid in self.processes]


@pytest.mark.parametrize(
    ("processes", "shared"), [([41], False), ([41, 41], False), ([41, 42], True), ([], True), (None, True)]
)
def test_a_gpu_with_other_processes_is_shared(processes, shared):
    counter = NvmlCounter(FakeNvml(processes), "handle")
    assert counter.joules() == pytest.approx(5.0)
    assert counter.shared() is shared


@pytest.fixture
def nvidia(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))


def test_the_driver_is_asked_for_this_very_gpu(nvidia, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([1]))
    assert find_counter(torch.device("cuda:0")).joules() == pytest.approx(5.0)


def test_gpus_without_the_counter_say_so(nvidia, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([1], broken=True))
    with pytest.raises(NoCounter, match="NVML: Not Supported"):
        find_counter(torch.device("cuda:0"))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoCounter, match="pip install"):
        find_counter(torch.device("cuda:0"))
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(NoCounter, match="only NVIDIA"):
        find_counter(torch.device("cuda:0"))


def test_a_real_load_of_another_process_is_seen(powercap):
    """With the kernel's own counters of busy time, where there are any."""
    if not energy._busy_seconds(energy.PROC_STAT):
        pytest.skip("no /proc/stat, or one that counts nothing, as of some containers")
    counter = RaplCounter(powercap)
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        deadline = time.monotonic() + 60
        while not (seen := counter.shared()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert seen
    finally:
        other.kill()
        other.wait()
