"""What executors share beyond `concurrent.futures.Executor`."""

from __future__ import annotations

from naslab.errors import NaslabError


class WorkerDied(NaslabError):
    """The process that ran a call is gone without an answer: killed, out of memory, or crashed.

    A call may raise it itself where its process is of no more use, such as one whose device answers nothing but errors:
    the executor then ends that process and starts another.
    """
