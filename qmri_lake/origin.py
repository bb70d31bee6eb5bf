"""Where a derived lake comes from: its source, the snapshot, how its exams were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd

from qmri_lake import __version__
from qmri_lake.storage import Node

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["Origin", "origin_of", "origin_record"]


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a derived lake comes from.

    Attributes
    ----------
    lake : str
        Name of the source, without its folder.
    snapshot : str
        Of the source: ``open_lake(source, ref=snapshot)`` is what was derived from.
    products : tuple of str
        As they were asked for.
    flow : DataFrame
        How its exams were chosen: the flow of the cohort.
    added : tuple of str
        Columns of the cohort's own, outcomes and matched sets, that joined group ``clinical``.
    code : str
        Version of this package.
    finished : bool
        Whether every exam has been copied: before that, no state says that a product is there.
    before : Origin, optional
        That of the source, where it was derived too.
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
        text = f"{self.lake} at {self.snapshot[:8]}: {', '.join(self.products)}"
        text += "" if self.finished else "; not finished, derive it again to go on"
        return f"{text}; which was derived from {self.before}" if self.before else text


def origin_of(root: Node) -> Origin | None:
    """Return where a lake was derived from; None of one that was not."""
    return _origin(dict(root.attrs["qmri_lake"]).get("origin"))


def _origin(record: Mapping[str, Any] | None) -> Origin | None:
    if record is None:
        return None
    return Origin(
        record["lake"], record["snapshot"], tuple(record["products"]),
        pd.DataFrame(record["flow"], columns=record["columns"]),
        tuple(record["added"]), record["code"],
        record["finished"], _origin(record["before"]),
    )  # fmt: skip


def origin_record(lake: Lake, cohort: Cohort, products: Sequence[str]) -> dict[str, Any]:
    """Return what a lake that is derived keeps of its source, as JSON holds it."""
    flow = cohort.flow().to_dict("split")
    return {
        # Its name alone: where it lies is nobody's business with whom the study is shared.
        "lake": PurePosixPath(lake.location).name,
        "snapshot": lake.snapshot,
        "products": list(products),
        "columns": flow["columns"],
        "flow": flow["data"],
        "added": list(cohort.added),
        "code": f"qmri_lake {__version__}",
        "finished": False,
        "before": dict(lake.root.attrs["qmri_lake"]).get("origin"),
    }
