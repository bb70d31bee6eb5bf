"""Pages from templates of this package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qmri_lake import __version__

__all__ = ["write_page"]


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
