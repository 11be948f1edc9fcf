"""Where trials run: on this machine, on a Ray cluster, or as Slurm jobs, behind one contract (base.py).

What hosts a worker on another machine imports this, and does not load torch: the worker itself does, once.
"""

from naslab.runs.executors.base import NodeLost, Slot, SlotExecutor, WorkerDied
from naslab.runs.executors.local import LocalExecutor

__all__ = ["LocalExecutor", "NodeLost", "Slot", "SlotExecutor", "WorkerDied"]
