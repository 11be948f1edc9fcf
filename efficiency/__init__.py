"""What each configuration costs. Useful by itself: `from efficiency import profile`."""

from efficiency.algebra_formulas import register_algebra
from efficiency.batch_sweep import BatchSweep, sweep_batch_sizes
from efficiency.calibration import calibrate
from efficiency.ceilings import Ceilings, load_ceilings
from efficiency.device import device_name, resolve_device
from efficiency.energy import Energy, measure_energy
from efficiency.errors import InputError, NaslabError
from efficiency.flops import FlopCount, count, count_forward, count_training_step
from efficiency.formulas import Call, Work, register_formula
from efficiency.gpus import DeviceSpec, find_gpu
from efficiency.inputs import Inputs
from efficiency.kernel_formulas import register_kernels
from efficiency.latency import Comparison, Latency, compare_latency, measure_latency
from efficiency.profiling import EfficiencyProfile, Flops, profile
from efficiency.provenance import Provenance, collect_provenance
from efficiency.roofline import Position, Roof, place
from efficiency.training_memory import MemorySplit, forecast_peak_bytes, largest_batch, training_memory
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
    "MemorySplit",
    "NaslabError",
    "Position",
    "Provenance",
    "Roof",
    "TrainingStep",
    "Work",
    "calibrate",
    "collect_provenance",
    "compare_latency",
    "count",
    "count_forward",
    "count_training_step",
    "device_name",
    "find_gpu",
    "forecast_peak_bytes",
    "largest_batch",
    "load_ceilings",
    "measure_energy",
    "measure_latency",
    "measure_training_step",
    "place",
    "profile",
    "register_formula",
    "resolve_device",
    "sweep_batch_sizes",
    "training_memory",
]

register_algebra()
register_kernels()
