"""What was spent, who wins, what to ship: studies, ledger, ranking, export, report and command line."""

from runs.architecture import rebuild

__all__ = ["rebuild"]
