"""What each configuration costs. Useful by itself: `from efficiency import profile`."""

from efficiency.algebra_formulas import register_algebra
from efficiency.batch_sweep import BatchSweep, sweep_batch_sizes
from efficiency.calibration import calibrate
from efficiency.ceilings import Ceilings, load_ceilings
from efficiency.clocks import clock_named
from efficiency.device import device_name, resolve_device
from efficiency.energy import Energy, measure_energy
from efficiency.errors import InputError, NaslabError
from efficiency.flops import FlopCount, count, count_forward, count_training_step
from efficiency.formulas import Call, Work, register_formula
from efficiency.frames import frame
from efficiency.gpus import DeviceSpec, find_gpu
from efficiency.inputs import Inputs
from efficiency.kernel_formulas import register_kernels
from efficiency.latency import Comparison, Latency, compare_latency, measure_latency
from efficiency.memory_forecast import MemoryForecast, forecast, forecast_peak_bytes, largest_batch
from efficiency.profiling import EfficiencyProfile, Flops, profile
from efficiency.provenance import Provenance, collect_provenance
from efficiency.resident_memory import ResidentMemory, resident_memory
from efficiency.roofline import Position, Roof, place
from efficiency.sample_files import write_samples
from efficiency.training_memory import MemorySplit, training_memory
from efficiency.training_step import TrainingStep, measure_training_step

__all__ = [
    "BatchSweep",
    "Call",
    "Ceilings",
    "Comparison",
    "DeviceSpec",
    "EfficiencyProfile",
    "Energy",
    "FlopCount",
    "Flops",
    "InputError",
    "Inputs",
    "Latency",
    "MemoryForecast",
    "MemorySplit",
    "NaslabError",
    "Position",
    "Provenance",
    "ResidentMemory",
    "Roof",
    "TrainingStep",
    "Work",
    "calibrate",
    "clock_named",
    "collect_provenance",
    "compare_latency",
    "count",
    "count_forward",
    "count_training_step",
    "device_name",
    "find_gpu",
    "forecast",
    "forecast_peak_bytes",
    "frame",
    "largest_batch",
    "load_ceilings",
    "measure_energy",
    "measure_latency",
    "measure_training_step",
    "place",
    "profile",
    "register_formula",
    "resident_memory",
    "resolve_device",
    "sweep_batch_sizes",
    "training_memory",
    "write_samples",
]

register_algebra()
register_kernels()
