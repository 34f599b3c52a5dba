"""The gallery as a function; it is written by `numclip_runtime.app.gallery`."""

from numclip_runtime.app.gallery import ReportEntry, write_report

__all__ = ["ReportEntry", "write_report"]
