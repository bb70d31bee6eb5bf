"""Summary of a lake: exams by timepoint and knee, steps, stored size and last commits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import icechunk
import numpy as np
import pandas as pd

from qmri_lake.core.text import ago, counted, format_bytes, format_shape
from qmri_lake.lake.history import list_commits
from qmri_lake.lake.lineage import origin_of
from qmri_lake.lake.status_table import count_states
from qmri_lake.lake.synthetic_exams import describe_synthetic
from qmri_lake.store.arrays import has_checksum
from qmri_lake.store.file_checksums import has_file_checksums
from qmri_lake.store.repository import first_line

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["array_sizes", "describe", "exams_by_visit", "storage", "stored_bytes"]


def exams_by_visit(exams: pd.DataFrame) -> pd.DataFrame:
    """Count exams, with a row for each timepoint [months] and a column for each knee."""
    return pd.crosstab(exams["timepoint"], exams["knee"])


def describe(lake: Snapshot) -> str:
    """Describe a lake in about twelve lines. Only small arrays are read."""
    exams = lake.exams
    at = f" at {lake.ref}" if lake.ref else ""
    lines = [
        f"<Lake {lake.url}{at}: {counted(len(exams), 'exam')} of "
        f"{counted(exams['patient'].nunique(), 'patient')}>"
    ]
    if (origin := origin_of(lake.root)) is not None:
        lines.append(f"  derived from {origin}")
    if synthetic := describe_synthetic(lake):
        lines.append(f"  {synthetic}")
    lines += _section("exams by timepoint [months] and knee", exams_by_visit(exams))
    status = count_states(lake.root, np.arange(len(lake)), len(lake))
    lines += _section("steps", status.loc[:, (status != 0).any()] if len(status) else status)
    images = [f"{group} {size}" for group, size in array_sizes(lake).items()]
    lines.append("  arrays: " + (", ".join(images) or "none yet"))
    lines.append(f"  stored: {storage(lake)}")
    lines.append("  last commits")
    for row in list_commits(lake, 3).to_dict("records"):
        tags = f"  [{row['tags']}]" if row["tags"] else ""
        when = ago(row["time"].to_pydatetime())
        lines.append(f"    {row['snapshot'][:8]}  {when:>10}  {row['message']}{tags}")
    return "\n".join(lines)


def _section(title: str, table: pd.DataFrame) -> list[str]:
    if table.empty:
        return [f"  {title}: none"]
    table = table.rename_axis(index=None, columns=None)
    return [f"  {title}", *(f"    {line}" for line in table.to_string().splitlines())]


def array_sizes(lake: Snapshot) -> dict[str, str]:
    """Return the array sizes of one exam by group, such as ``{"dess": "160 x 384 x 384"}``."""
    return {
        group: format_shape(dict(lake.root[group].attrs["sizes"]).values())
        for group in lake.groups()
        if "sizes" in lake.root[group].attrs
    }


def storage(lake: Snapshot) -> str:
    """Return the size of the stored chunks, their checksums, and the format of the lake."""
    try:
        size = f"{format_bytes(stored_bytes(lake))} of chunks"
    except icechunk.IcechunkError as error:
        size = f"chunks of unknown size: a commit is damaged ({first_line(error)})"
    return f"{size}, {_checksums(lake)}, Icechunk format {lake.storage_format}"


def _checksums(lake: Snapshot) -> str:
    """Describe which content has checksums: ``with checksums`` if all content has."""
    arrays = [lake.root[path] for path in lake.variables()]
    count = sum(has_checksum(array) for array in arrays)
    if count == len(arrays):
        listed = has_file_checksums(lake.location)
        return "with checksums" if listed else "with checksums of chunks, but not of other files"
    return f"{count} of {len(arrays)} arrays with checksums" if count else "without checksums"


def stored_bytes(lake: Snapshot) -> int:
    """Return the number of bytes in all chunks of all snapshots."""
    stats = lake.repo.chunk_storage_stats()
    return int(stats.native_bytes + stats.inlined_bytes)
