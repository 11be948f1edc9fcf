"""The report: one HTML file that answers which configuration is worth its hours, with the evidence."""

from naslab.runs.report.build import Report, build_report

__all__ = ["Report", "build_report"]
