"""What was spent, who wins, what to ship: studies, ledger, ranking, export, report and command line."""
