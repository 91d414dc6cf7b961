"""The report: one HTML file without network."""

from isocline.report.html import write_report

__all__ = ["write_report"]
