"""Pages from templates of this package."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmri_lake import __version__

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["heading", "write_page"]


def heading(lake: Lake, cohort: Cohort, title: str) -> dict[str, Any]:
    """Return what every page about a lake begins with: its name and version, and how many exams."""
    name = Path(lake.url).name
    return {
        "title": title or name,
        "url": name,
        "ref": lake.ref or "the newest commit",
        "snapshot": lake.snapshot,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "exams": len(cohort),
        "patients": cohort.patients,
    }


def write_page(template: str, out: str | os.PathLike[str], **values: Any) -> Path:
    """Fill in a template and write the page; its folder is made. Return the file."""
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
