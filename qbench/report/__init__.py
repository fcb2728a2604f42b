"""What a run is shown as: terminal tables, Markdown, CSV, plots. Reads results, measures and judges nothing."""

from qbench.report.junit import junit_properties
from qbench.report.markdown import append_step_summary, markdown_report
from qbench.report.sheets import Line, Point, Sheet, make_sheets
from qbench.report.table import terminal_report
from qbench.report.write import Written, results_csv, write_report

__all__ = [
    "Line",
    "Point",
    "Sheet",
    "Written",
    "append_step_summary",
    "junit_properties",
    "make_sheets",
    "markdown_report",
    "results_csv",
    "terminal_report",
    "write_report",
]
