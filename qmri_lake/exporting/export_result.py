"""The result of an export, and the summary that is stored in its folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from qmri_lake.core.atomic_write import atomic_write_text
from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.text import counted, format_bytes
from qmri_lake.core.version import __version__
from qmri_lake.errors import Problem, problem_table
from qmri_lake.exporting.exam_task import Outcome
from qmri_lake.exporting.format_declaration import Finished, Format
from qmri_lake.exporting.manifest import Manifest, digest_of
from qmri_lake.lake.cohort import Cohort
from qmri_lake.lake.synthetic_exams import is_synthetic

__all__ = ["Absent", "ExportResult", "finish_export", "origin_of_files"]

Absent = tuple[str, str, str]
"""Exam, variable and the reason why there is no value."""


@dataclass(frozen=True)
class ExportResult:
    """Result of an export."""

    out: Path
    format: str
    snapshot: str
    """Snapshot of the lake that was read."""
    variables: tuple[str, ...]
    written: int
    """Number of exams whose files were written."""
    unchanged: int
    """Number of exams whose files were there from an earlier export of the same results."""
    files: tuple[str, ...]
    """Paths of all files of the exported exams, in the folder."""
    nbytes: int
    """Size of these files."""
    losses: Mapping[str, int]
    """What the format could not hold, with the number of exams."""
    left_out: pd.DataFrame
    """Columns exam, variable and reason: what was not exported, because there is no value."""
    problems: tuple[Problem, ...] = field(default=())
    """Exams that could not be exported."""
    other_exams: int = 0
    """Exams of the folder that are not part of this export; their files are kept."""

    def table(self) -> pd.DataFrame:
        """Return the problems as a table: reason, where, found, expected, todo, exam."""
        return problem_table(self.problems)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        text = f"{self.format}: {counted(self.written, 'exam')} written"
        text += f", {self.unchanged:,} already there" if self.unchanged else ""
        text += f" ({counted(len(self.files), 'file')}, {format_bytes(self.nbytes)})"
        if empty := self.left_out["exam"].nunique():
            text += f"; values missing in {counted(empty, 'exam')}"
        text += f"; {counted(len(self.problems), 'problem')}" if self.problems else ""
        return text


def origin_of_files(cohort: Cohort, request: JsonObject) -> JsonObject:
    """Return what all files of an export come from: request, snapshot and program."""
    return {
        **request,
        "snapshot": cohort.lake.snapshot,
        "exporter": f"qmri_lake {__version__}",
    }


def finish_export(
    cohort: Cohort,
    form: Format,
    folder: Path,
    request: JsonObject,
    manifest: Manifest,
    outcomes: Sequence[Outcome],
    absent: Sequence[Absent],
) -> ExportResult:
    """Write the files that concern all exams, and the summary; return the result."""
    lake = cohort.lake
    done = {o.exam: o.record for o in outcomes if o.state != "failed"}
    kept = {exam: record for exam, record in done.items() if record["files"]}
    files = {name: about for record in done.values() for name, about in record["files"].items()}
    about = origin_of_files(cohort, request)
    if form.finish is not None:
        keys = lake.keys_at(cohort.rows)
        mine = keys["exam"].isin(list(kept)).to_numpy(dtype=bool)
        keys = keys[mine]
        made = form.finish(
            Finished(
                folder,
                keys["exam"].tolist(),
                keys["patient"].tolist(),
                keys["timepoint"].tolist(),
                is_synthetic(lake)[cohort.rows[np.flatnonzero(mine)]].tolist(),
                about,
            )
        )
        files |= {path.relative_to(folder).as_posix(): digest_of(path) for path in made}
    left_out = [*absent]
    left_out += [(o, p, why) for o, r in done.items() for p, why in r["left_out"].items()]
    losses = Counter(loss for record in done.values() for loss in record["losses"])
    result = ExportResult(
        out=folder,
        format=form.name,
        snapshot=lake.snapshot,
        variables=tuple(request["variables"]),
        written=sum(o.state == "written" for o in outcomes),
        unchanged=sum(o.state == "unchanged" for o in outcomes),
        files=tuple(sorted(files)),
        nbytes=sum(about["bytes"] for about in files.values()),
        losses=dict(losses.most_common()),
        left_out=pd.DataFrame(left_out, columns=["exam", "variable", "reason"]),
        problems=tuple(o.problem for o in outcomes if o.problem is not None),
        other_exams=len(set(manifest.records) - set(cohort.exams["exam"])),
    )
    summary = {
        **about,
        "exams": len(kept),
        "flow": cohort.flow().to_dict("records"),
        "losses": result.losses,
        "left_out": result.left_out.to_dict("records"),
        "problems": result.table().to_dict("records"),
    }
    atomic_write_text(folder / f"summary.{form.name}.json", json.dumps(summary, indent=2) + "\n")
    return result
