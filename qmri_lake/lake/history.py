"""Tables of runs and commits."""

from __future__ import annotations

import contextlib
import itertools
from datetime import datetime
from typing import TYPE_CHECKING

import icechunk
import pandas as pd

from qmri_lake.store.arrays import Node
from qmri_lake.store.repository import first_line
from qmri_lake.store.runs import EDITED, read_runs

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["list_commits", "list_runs"]


def list_runs(root: Node) -> pd.DataFrame:
    """List runs by number, with their step, parameters, code, input snapshot, times and counts.

    If masks were edited by hand, the column ``edited`` states who did it and why.
    """
    columns = ["step", "parameters", "code", "snapshot", "started", "finished", "counts"]
    frame = pd.DataFrame.from_dict(read_runs(root), orient="index")
    columns += [EDITED] if EDITED in frame else []
    return frame.reindex(columns=columns).rename_axis("run")


def list_commits(lake: Snapshot, limit: int | None) -> pd.DataFrame:
    """List commits up to the commit of a lake, newest first, with id, time, message and tags.

    If an earlier commit is damaged, the last row describes the damage, with the time of the commit
    after it.
    """
    repo = lake.reopened()
    tags: dict[str, list[str]] = {}
    for name in sorted(repo.list_tags()):
        with contextlib.suppress(icechunk.IcechunkError):  # the reference of this tag is damaged
            tags.setdefault(repo.lookup_tag(name), []).append(name)
    found: list[tuple[str, datetime, str, str]] = []
    try:
        for info in itertools.islice(repo.ancestry(snapshot_id=lake.snapshot), limit):
            names = ", ".join(tags.get(info.id, []))
            found.append((info.id, info.written_at, info.message, names))
    except icechunk.IcechunkError as error:
        if not found:
            raise
        found.append(("", found[-1][1], f"the commit before is damaged ({first_line(error)})", ""))
    return pd.DataFrame(found, columns=["snapshot", "time", "message", "tags"])
