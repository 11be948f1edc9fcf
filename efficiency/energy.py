"""Energy: joules of a call, from the hardware's counter.

A GPU's counter is NVML's total energy (Volta and later), a CPU's is RAPL's package domain. Both count everything that
the device does, its idle power included, and neither is fine enough for one short call; so the call is repeated.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch

from naslab.efficiency.device import current, synchronise
from naslab.efficiency.nvml import device_handle
from naslab.errors import NaslabError

POWERCAP = Path("/sys/class/powercap")
PROC_STAT = Path("/proc/stat")
ALONE = 0.95
"""Share of all busy processor time above which the load counts as ours alone."""
READ_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Energy:
    """Energy of one call, or why there is none.

    `watts` is the mean power over `seconds`. `counter` is "nvml" or "rapl". `shared` says that others' work may be in
    the figure. Without a usable counter `joules_per_call`, `watts` and `counter` are None, `seconds` is 0 and `reason`
    tells why.
    """

    joules_per_call: float | None
    watts: float | None
    counter: str | None
    shared: bool
    seconds: float
    reason: str | None = None


class EnergyCounter(Protocol):
    """A counter of a device's energy."""

    name: str

    def joules(self) -> float:
        """Joules since the counter was opened."""

    def shared(self) -> bool:
        """Whether work of others may have been counted since the counter was opened."""


class NoCounter(NaslabError):
    """There is no usable counter; the message says why."""


def measure_energy(
    function: Callable[[], Any],
    device: torch.device | None = None,
    *,
    seconds: float = 3.0,
    open_counter: Callable[[torch.device], EnergyCounter] | None = None,
) -> Energy:
    """Joules of one call of `function`, called once to warm up and then again and again.

    Args:
        device: whose energy; the CPU's package when left out.
        seconds: repeat for at least so long. Counters move in steps of up to 0.1 s, so below 1 s they say little.
        open_counter: finds the counter; replaced in tests.
    """
    device = device or torch.device("cpu")
    try:
        with current(device):
            function()
            synchronise(device)
            return _measure(function, device, (open_counter or find_counter)(device), seconds)
    except NoCounter as missing:
        return Energy(None, None, None, False, 0.0, str(missing))


def find_counter(device: torch.device) -> EnergyCounter:
    """The energy counter of `device`.

    Raises:
        NoCounter: there is none that this process may read.
    """
    if device.type == "cuda":
        return NvmlCounter.open(device)
    if device.type == "cpu":
        return RaplCounter(POWERCAP)
    raise NoCounter(f"no energy counter is known for {device.type} devices")


def _measure(function: Callable[[], Any], device: torch.device, counter: EnergyCounter, seconds: float) -> Energy:
    calls, start = 0, perf_counter()
    elapsed, read_at = 0.0, READ_EVERY_SECONDS
    while elapsed < seconds:
        function()
        synchronise(device)
        calls += 1
        elapsed = perf_counter() - start
        if elapsed >= read_at:  # often enough that the counter cannot wrap around twice unseen
            counter.joules()
            read_at = elapsed + READ_EVERY_SECONDS
    joules = counter.joules()
    elapsed = perf_counter() - start
    if joules <= 0:
        raise NoCounter(f"the {counter.name} counter did not move in {elapsed:.2f} s")
    return Energy(joules / calls, joules / elapsed, counter.name, counter.shared(), elapsed)


class NvmlCounter:
    """NVML's total energy of one GPU."""

    name = "nvml"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._start = self._read()

    @classmethod
    def open(cls, device: torch.device) -> NvmlCounter:
        """The counter of a CUDA device.

        Raises:
            NoCounter: not an NVIDIA GPU, no `nvidia` extra, or a GPU or driver without this counter.
        """
        if torch.version.cuda is None:
            raise NoCounter("only NVIDIA GPUs have a counter that is read here")
        try:
            import pynvml
        except ImportError:
            raise NoCounter("nvidia-ml-py is not installed; pip install naslab[nvidia]") from None
        try:
            pynvml.nvmlInit()
            return cls(pynvml, device_handle(pynvml, device))
        except pynvml.NVMLError as error:
            raise NoCounter(f"NVML: {error}") from None

    def joules(self) -> float:
        """Joules since the counter was opened."""
        return (self._read() - self._start) / 1000

    def shared(self) -> bool:
        """Whether the driver lists anything but exactly one process that computes on the GPU.

        Process numbers are not compared: inside a container the driver's are not ours. An empty list hides at least
        this process, and so may hide others.
        """
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return True
        return len({process.pid for process in processes}) != 1

    def _read(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            raise NoCounter(f"NVML: {error}") from None


class RaplCounter:
    """The package domains of RAPL, all sockets together, through Linux's powercap files (Intel and AMD).

    Raises:
        NoCounter: no such files, or not readable (most systems keep them for root).
    """

    name = "rapl"

    def __init__(self, folder: Path, stat: Path = PROC_STAT) -> None:
        self._stat = stat
        self._domains = [_RaplDomain(zone) for zone in sorted(folder.glob("intel-rapl:*")) if _is_package(zone)]
        if not self._domains:
            raise NoCounter(f"{folder}: no RAPL package counter")
        self._busy, self._ours = _busy_seconds(stat), _own_seconds()

    def joules(self) -> float:
        """Joules since the counter was opened; a domain may wrap around once between two readings."""
        return sum(domain.joules() for domain in self._domains)

    def shared(self) -> bool:
        """Whether other processes used more than a twentieth of the busy processor time, or it cannot be told."""
        now = _busy_seconds(self._stat)
        if now is None or self._busy is None:
            return True
        return _own_seconds() - self._ours < ALONE * (now - self._busy)


class _RaplDomain:
    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = _read_number(zone / "max_energy_range_uj")
        self._last = _read_number(self._file)
        self._microjoules = 0

    def joules(self) -> float:
        now = _read_number(self._file)
        self._microjoules += now - self._last if now >= self._last else now - self._last + self._range
        self._last = now
        return self._microjoules / 1e6


def _is_package(zone: Path) -> bool:
    """Not a part of a package (intel-rapl:0:1) and not the whole platform (psys), which would count twice."""
    try:
        return zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package")
    except OSError:
        return False


def _read_number(file: Path) -> int:
    try:
        return int(file.read_text())
    except OSError as error:
        raise NoCounter(f"{file}: {error.strerror}; most systems let only root read it") from None
    except ValueError:
        raise NoCounter(f"{file}: not a number") from None


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds(stat: Path) -> float | None:
    """Processor seconds of everything on the machine: user, nice, system, irq, softirq and steal."""
    try:
        ticks = [int(number) for number in stat.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    if len(ticks) < 8:
        return None
    return float(sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
