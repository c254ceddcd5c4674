"""A run's report: a page that needs no other file, the front as PNG and CSV, all trials as CSV."""

from reports.page.write import compare_runs, write_report


__all__ = ["compare_runs", "write_report"]
