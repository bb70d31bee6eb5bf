"""Lineage of a derived lake: its source, the source's snapshot, and the selection of exams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pandas as pd

from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.version import __version__
from qmri_lake.store.arrays import Node
from qmri_lake.store.lake_properties import read_properties

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["Origin", "origin_of", "origin_record"]


@dataclass(frozen=True, eq=False)
class Origin:
    """Source of a derived lake.

    Attributes
    ----------
    lake : str
        Name of the source, without its folder; empty in a pseudonymised lake.
    snapshot : str
        Snapshot of the source. Open it with ``open_lake(source, ref=snapshot)``.
    products : tuple of str
        Products as given to `Lake.derive`.
    flow : DataFrame
        Flow of the cohort.
    added : tuple of str
        Names of the columns in the group ``clinical`` that the cohort added: outcomes and matched
        sets.
    code : str
        Version of this package.
    finished : bool
        Whether every exam has been copied. Until then, no status marks a product as available.
    before : Origin, optional
        Origin of the source, if the source is itself a derived lake.
    """

    lake: str
    snapshot: str
    products: tuple[str, ...]
    flow: pd.DataFrame
    added: tuple[str, ...]
    code: str
    finished: bool
    before: Origin | None = None

    def __str__(self) -> str:
        name = self.lake or "a lake that is not named"
        text = f"{name} at {self.snapshot[:8]}: {', '.join(self.products)}"
        text += "" if self.finished else "; not finished, derive again to resume"
        return f"{text}; derived from {self.before}" if self.before else text


def origin_of(root: Node) -> Origin | None:
    """Return the origin of a derived lake; None for other lakes."""
    return _origin(read_properties(root).get("origin"))


def _origin(record: JsonMapping | None) -> Origin | None:
    if record is None:
        return None
    return Origin(
        record["lake"],
        record["snapshot"],
        tuple(record["products"]),
        pd.DataFrame(record["flow"], columns=record["columns"]),
        tuple(record["added"]),
        record["code"],
        record["finished"],
        _origin(record["before"]),
    )


def origin_record(lake: Snapshot, cohort: Cohort, products: Sequence[str]) -> JsonObject:
    """Return the record that a derived lake stores about its source, as JSON types."""
    flow = cohort.flow().to_dict("split")
    return {
        # Only the name, because recipients of the study must not learn the path of the source.
        "lake": PurePosixPath(lake.location).name,
        "snapshot": lake.snapshot,
        "products": list(products),
        "columns": flow["columns"],
        "flow": flow["data"],
        "added": list(cohort.added),
        "code": f"qmri_lake {__version__}",
        "finished": False,
        "before": read_properties(lake.root).get("origin"),
    }
