"""From images to maps: Figure S1, Table S1 with Figure S2, and Figure S3 of a lake."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qmri_lake.errors import NotFoundError, Reason
from qmri_lake.report.agreement import figure_s3, map_agreement
from qmri_lake.report.chain_figure import NEEDED, chain_counts, drawable, figure_s1
from qmri_lake.report.maps import cohort_atlas, cohort_mean
from qmri_lake.report.paper.part import Frame, Part, Shown
from qmri_lake.report.segmentation import segmentation_parts
from qmri_lake.summary import counted

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["agreement", "chain", "segmentation"]


def chain(
    lake: Lake,
    cohort: Cohort,
    sets: Mapping[str, Sequence[Cohort]],
    classifiers: Mapping[str, int],
) -> Part:
    """Figure S1: the chain, drawn from one exam, with the lake's counts."""
    exam = drawable(cohort)
    if exam is None:
        raise NotFoundError(
            f"no exam of {len(cohort):,} with {', '.join(NEEDED)}", expected="at least one",
            where=lake.url, todo="Run the steps from ingest to sphere, on exams that have images.",
            reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    figure = figure_s1(lake, exam, chain_counts(cohort, **sets, classifiers=classifiers))
    note = f"Drawn from {exam}. Counts are of this lake; those of the paper are in brackets."
    return Part(note, figures={"figure_s1": ("", figure)})


def segmentation(lake: Lake, cohort: Cohort, models: Sequence[str | os.PathLike[str]]) -> Part:
    """Table S1 and Figure S2: masks against references, of exams that no network has seen."""
    found = segmentation_parts(lake, cohort, models=models)
    if found is None:
        raise NotFoundError(
            "no exam with a mask and a reference", expected="some, to compare masks with",
            where=lake.url, todo="Import references: qmri-lake ingest-masks.",
            reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    note = (
        "DSC: overlap; MPTS: mean distance between the two surfaces, over both directions. Mean "
        f"[95 % t interval] over patients. Compared are {found['exams'] or 'none'}. Figure S2: the "
        "slice that shows most of all structures; green: both say so, cyan: only the mask, "
        "magenta: only the reference."
    )
    absent = tuple(found["doubts"])
    if found["flattered"]:
        absent += ("Networks may have learned from these exams: name their folders to compare "
                   "their test exams only.",)  # fmt: skip
    tables = {"table_s1": Shown(Frame(found["table"]))} if len(found["table"]) else {}
    figures = {
        f"figure_s2_{k}": (caption, figure)
        for k, (caption, figure) in enumerate(found["figures"].items(), 1)
    }
    return Part(note, tables, figures, absent)


def agreement(lake: Lake, cohort: Cohort) -> Part:
    """Figure S3: means over maps against means over their sources; and the cohort's mean maps."""
    both = cohort.require("sphere/map", "region/thickness")
    if not len(both):
        raise NotFoundError(
            "no exam with maps and averages of regions", expected="at least one", where=lake.url,
            todo="Run steps sphere and region.", reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    sphere = lake.load("sphere", both)
    table = map_agreement(sphere, lake.load("region", both))
    note = (
        f"Of {counted(len(both), 'exam')}. Mean over a map less the mean over its source "
        "(thickness: area-weighted over bone surface; T2: over voxels): black zero, grey the mean "
        "and \N{PLUS-MINUS SIGN} 2 SD. A plain mean counts each pixel as one, an area-weighted one "
        "as the bone that it stands for."
    )
    figures = {"figure_s3": ("", figure_s3(table))}
    if len(both) > 1:
        figures["mean_maps"] = ("Mean maps", cohort_atlas(cohort_mean(sphere)))
    return Part(note, figures=figures)
