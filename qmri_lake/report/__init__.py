"""Pages about a lake, for people: pictures, tables, and where every number comes from."""

from qmri_lake.report.html import write_report

__all__ = ["write_report"]
