"""Write HTML pages from the templates of this package."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.version import __version__
from qmri_lake.lake.synthetic_exams import describe_synthetic

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["page_header", "write_page"]


def page_header(lake: Lake, cohort: Cohort, title: str) -> JsonObject:
    """Return the values of a page header, such as the snapshot of the lake and numbers of exams."""
    name = Path(lake.url).name
    return {
        "title": title or name,
        "url": name,
        "ref": lake.ref or "the latest commit",
        "snapshot": lake.snapshot,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "exams": len(cohort),
        "patients": cohort.patients,
        "synthetic": describe_synthetic(lake, cohort.rows),
    }


def write_page(template: str, out: str | os.PathLike[str], **values: Any) -> Path:
    """Render a template, write the page to `out`, and return its path.

    Missing folders are created.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("qmri_lake.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(version=__version__, **values)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
