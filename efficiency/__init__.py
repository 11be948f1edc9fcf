"""What each configuration costs. Useful by itself: `from naslab.efficiency import profile`."""

from naslab.efficiency.batch_sweep import BatchSweep, sweep_batch_sizes
from naslab.efficiency.calibration import calibrate
from naslab.efficiency.ceilings import Ceilings, load_ceilings
from naslab.efficiency.clocks import clock_named
from naslab.efficiency.device import device_name, resolve_device
from naslab.efficiency.energy import Energy, measure_energy
from naslab.efficiency.flops import FlopCount, count, count_forward, count_training_step
from naslab.efficiency.formulas import Call, Work, register_formula
from naslab.efficiency.frames import frame
from naslab.efficiency.gpus import DeviceSpec, find_gpu
from naslab.efficiency.hours import Hours, run_hours, study_hours
from naslab.efficiency.inputs import Inputs
from naslab.efficiency.latency import Comparison, Latency, compare_latency, measure_latency
from naslab.efficiency.memory_forecast import MemoryForecast, forecast, forecast_peak_bytes, largest_batch
from naslab.efficiency.profile_document import EfficiencyProfile, Flops
from naslab.efficiency.profiling import profile
from naslab.efficiency.provenance import Provenance, collect_provenance
from naslab.efficiency.resident_memory import ResidentMemory, resident_memory
from naslab.efficiency.roofline import Position, Roof, place
from naslab.efficiency.sample_files import write_samples
from naslab.efficiency.training_memory import MemorySplit, training_memory
from naslab.efficiency.training_step import TrainingStep, measure_training_step
from naslab.errors import InputError, NaslabError

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
    "Hours",
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
    "run_hours",
    "study_hours",
    "sweep_batch_sizes",
    "training_memory",
    "write_samples",
]
