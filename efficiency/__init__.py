"""What each configuration costs. Useful by itself: `from efficiency import profile`."""

from efficiency.device import device_name, resolve_device
from efficiency.errors import InputError, NaslabError
from efficiency.flops import FlopCount, count, count_forward, count_training_step
from efficiency.formulas import Call, Work, register_formula
from efficiency.inputs import Inputs
from efficiency.kernel_formulas import register_kernels
from efficiency.latency import Comparison, Latency, compare_latency, measure_latency
from efficiency.profiling import EfficiencyProfile, Flops, profile
from efficiency.provenance import Provenance, collect_provenance

__all__ = [
    "Call",
    "Comparison",
    "EfficiencyProfile",
    "FlopCount",
    "Flops",
    "InputError",
    "Inputs",
    "Latency",
    "NaslabError",
    "Provenance",
    "Work",
    "collect_provenance",
    "compare_latency",
    "count",
    "count_forward",
    "count_training_step",
    "device_name",
    "measure_latency",
    "profile",
    "register_formula",
    "resolve_device",
]

register_kernels()
