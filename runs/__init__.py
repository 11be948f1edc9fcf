"""What was spent, who wins, what to ship: studies, ledger, ranking, export, report and command line."""

from naslab.runs.architecture import rebuild

__all__ = ["rebuild"]
