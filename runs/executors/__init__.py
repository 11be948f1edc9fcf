"""Where trials run. Every executor has the interface of `concurrent.futures.Executor`."""

from runs.executors.base import WorkerDied
from runs.executors.local import LocalExecutor

__all__ = ["LocalExecutor", "WorkerDied"]
