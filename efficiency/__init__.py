"""What each configuration costs. Useful by itself: `from efficiency import profile`."""

from efficiency.device import device_name, resolve_device
from efficiency.errors import InputError, NaslabError
from efficiency.flops import FlopCount, count, count_forward, count_training_step
from efficiency.latency import Comparison, Latency, compare_latency, measure_latency
from efficiency.profiling import EfficiencyProfile, profile
from efficiency.provenance import Provenance, collect_provenance

__all__ = [
    "Comparison",
    "EfficiencyProfile",
    "FlopCount",
    "InputError",
    "Latency",
    "NaslabError",
    "Provenance",
    "collect_provenance",
    "compare_latency",
    "count",
    "count_forward",
    "count_training_step",
    "device_name",
    "measure_latency",
    "profile",
    "resolve_device",
]
