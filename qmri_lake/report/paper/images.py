"""Sections on images and maps: Figure S1, Table S1 with Figure S2, and Figure S3."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qmri_lake.core.text import counted
from qmri_lake.errors import NotFoundError, Reason
from qmri_lake.report.figure_s1_chain import REQUIRED, chain_counts, figure_s1, first_complete_exam
from qmri_lake.report.figure_s3_agreement import figure_s3, map_agreement
from qmri_lake.report.map_atlases import cohort_atlas, cohort_mean
from qmri_lake.report.paper.section import Section, TitledTable, WordTable
from qmri_lake.report.segmentation_report import segmentation_results

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["agreement_section", "chain_section", "segmentation_section"]


def chain_section(
    lake: Lake,
    cohort: Cohort,
    sets: Mapping[str, Sequence[Cohort]],
    classifiers: Mapping[str, int],
) -> Section:
    """Return Figure S1: the processing chain for one exam, with the counts of the lake."""
    exam = first_complete_exam(cohort)
    if exam is None:
        raise NotFoundError(
            f"no exam with {', '.join(REQUIRED)}",
            expected=f"these variables in at least one of {counted(len(cohort), 'exam')}",
            where=lake.url,
            todo="Ingest images and run all steps up to sphere.",
            reason=Reason.ABSENT_EXAM,
        )
    figure = figure_s1(lake, exam, chain_counts(cohort, **sets, classifiers=classifiers))
    note = f"Exam {exam}. Numbers of exams in this lake; numbers of the paper in brackets."
    return Section(note, figures={"figure_s1": ("", figure)})


def segmentation_section(
    lake: Lake, cohort: Cohort, models: Sequence[str | os.PathLike[str]]
) -> Section:
    """Return Table S1 and Figure S2: agreement of masks with references, on held-out exams."""
    results = segmentation_results(lake, cohort, models=models)
    if results is None:
        raise NotFoundError(
            "no exam with a mask and a reference",
            expected="at least one exam",
            where=lake.url,
            todo="Import references: qmri-lake ingest-masks.",
            reason=Reason.ABSENT_EXAM,
        )
    note = (
        "DSC: Dice similarity coefficient. MPTS: mean distance between the two surfaces, averaged "
        "over both directions. Values are means over patients "
        "[95 % interval on the logit or log scale; none below five patients]. Exams: "
        f"{results.exams or 'none'}. Figure S2 shows the slice with the largest total area of the "
        "reference. Green: true positive. Cyan: false positive. Magenta: false negative, or "
        "another structure in the mask."
    )
    tables = {"table_s1": TitledTable(WordTable(results.table))} if len(results.table) else {}
    figures = {
        f"figure_s2_{k}": (caption, figure)
        for k, (caption, figure) in enumerate(results.figures.items(), 1)
    }
    return Section(note, tables, figures, results.warnings)


def agreement_section(lake: Lake, cohort: Cohort) -> Section:
    """Return Figure S3, agreement of maps with their sources, and the mean maps of the cohort."""
    both = cohort.require("sphere/map", "region/thickness")
    if not len(both):
        raise NotFoundError(
            "no exam with maps and regional averages",
            expected="at least one exam",
            where=lake.url,
            todo="Run steps sphere and region.",
            reason=Reason.ABSENT_EXAM,
        )
    sphere = lake.load("sphere", both)
    table = map_agreement(sphere, lake.load("region", both))
    note = (
        f"{counted(len(both), 'exam')}. Bland-Altman plots of the mean over a map minus the mean "
        "over its source (thickness: bone surface, weighted by area; T2: voxels). Black: zero. "
        "Grey: mean difference and \N{PLUS-MINUS SIGN} 2 SD. Plain means give all pixels the same "
        "weight; area-weighted means weight each pixel by the bone surface that it represents."
    )
    figures = {"figure_s3": ("", figure_s3(table))}
    if len(both) > 1:
        figures["mean_maps"] = ("Mean maps", cohort_atlas(cohort_mean(sphere)))
    return Section(note, figures=figures)
