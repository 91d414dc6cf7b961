"""The report: one HTML file without network."""

from isocline.report.bifurcation import write_bifurcation
from isocline.report.comparison import write_comparison
from isocline.report.files import write_figures
from isocline.report.html import write_report
from isocline.report.validation import write_validation

__all__ = ["write_bifurcation", "write_comparison", "write_figures", "write_report", "write_validation"]
