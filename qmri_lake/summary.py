"""A lake at a glance: exams by timepoint and knee, steps, size, last commits."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = [
    "ago",
    "array_sizes",
    "counted",
    "describe",
    "exams_by_visit",
    "human_size",
    "stored_bytes",
]


def exams_by_visit(exams: pd.DataFrame) -> pd.DataFrame:
    """Count exams: a row for each timepoint [months], a column for each knee."""
    return pd.crosstab(exams["timepoint"], exams["knee"])


def counted(n: int, noun: str) -> str:
    """Count things in words: ``1 exam``, ``2,000 exams``."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def human_size(n: float) -> str:
    """Say a number of bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < 1024 or unit == "TiB":
            break
        n /= 1024
    return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"


def ago(moment: datetime) -> str:
    """Say how long ago something was."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (129600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} days ago"


def describe(lake: Lake) -> str:
    """Describe a lake in a dozen lines; reads only small arrays."""
    exams = lake.exams
    at = f" at {lake.ref}" if lake.ref else ""
    lines = [
        f"<Lake {lake.url}{at}: {counted(len(exams), 'exam')} of "
        f"{counted(exams['patient'].nunique(), 'patient')}>"
    ]
    if lake.origin is not None:
        lines.append(f"  derived from {lake.origin}")
    lines += _section("exams by timepoint [months] and knee", exams_by_visit(exams))
    status = lake.status()
    lines += _section("steps", status.loc[:, (status != 0).any()] if len(status) else status)
    images = [f"{group} {size}" for group, size in array_sizes(lake).items()]
    lines.append("  arrays: " + (", ".join(images) or "none yet"))
    lines.append(f"  stored: {human_size(stored_bytes(lake))} of chunks")
    lines.append("  last commits")
    for row in lake.history(3).to_dict("records"):
        tags = f"  [{row['tags']}]" if row["tags"] else ""
        when = ago(row["time"].to_pydatetime())
        lines.append(f"    {row['snapshot'][:8]}  {when:>10}  {row['message']}{tags}")
    return "\n".join(lines)


def _section(title: str, table: pd.DataFrame) -> list[str]:
    if table.empty:
        return [f"  {title}: none"]
    table = table.rename_axis(index=None, columns=None)
    return [f"  {title}", *(f"    {line}" for line in table.to_string().splitlines())]


def array_sizes(lake: Lake) -> dict[str, str]:
    """Say the sizes of one exam's image by group: ``{"dess": "160 x 384 x 384"}``."""
    return {
        group: " x ".join(str(n) for n in dict(lake.root[group].attrs["sizes"]).values())
        for group in lake.groups()
        if "sizes" in lake.root[group].attrs
    }


def stored_bytes(lake: Lake) -> int:
    """Count the bytes of all chunks of all snapshots."""
    stats = lake.repo.chunk_storage_stats()
    return int(stats.native_bytes + stats.inlined_bytes)
