"""Where trials run. Every executor has the interface of `concurrent.futures.Executor`."""

from naslab.runs.executors.base import WorkerDied
from naslab.runs.executors.local import LocalExecutor

__all__ = ["LocalExecutor", "WorkerDied"]
