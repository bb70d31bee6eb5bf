"""Section of a report on segmentation: agreement of masks with their references.

The section contains Table S1 of the paper for the exams of a lake, Figure S2, and the values of
every exam.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qmri_lake.core.text import counted
from qmri_lake.published import SEGMENTATION, SEGMENTATION_N
from qmri_lake.report.figure_s2_masks import best_median_worst, figure_s2
from qmri_lake.segmentation.evaluation.provenance import HeldOut, count_other_sources, find_held_out
from qmri_lake.segmentation.evaluation.scores import (
    COLUMNS,
    Kind,
    score_exams,
    scored,
    summarise_scores,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["SegmentationResults", "segmentation_results", "table_s1"]

_KINDS: tuple[Kind, ...] = ("bone", "cartilage")
_TITLES = {"bone": "Bones", "cartilage": "Cartilage and menisci"}
_NO_VALUE = "\N{EN DASH}"


@dataclass(frozen=True, eq=False)
class SegmentationResults:
    """Agreement of the masks of a cohort with their references."""

    table: pd.DataFrame
    """Table S1, as returned by `table_s1`; empty if no exam was compared."""
    per_exam: pd.DataFrame
    """Agreement of each exam, one row per exam and structure."""
    figures: Mapping[str, Figure]
    """Panels of Figure S2 by caption."""
    exams: str
    """Numbers of compared exams, and of excluded exams with the reasons, as text."""
    may_include_training_exams: bool
    """Whether the networks may have been trained on compared exams, since no ensemble was named."""
    warnings: tuple[str, ...]
    """Warnings of masks whose origin is unknown, of masks that the named ensembles did not make,
    and of test exams without masks."""


def table_s1(scores: Mapping[Kind, pd.DataFrame]) -> pd.DataFrame:
    """Return Table S1 for scored exams, with the published values.

    Parameters
    ----------
    scores : mapping of kind to DataFrame
        Tables returned by `qmri_lake.segmentation.evaluation.scores.score_exams`, by the kinds
        ``"bone"`` and ``"cartilage"``.

    Returns
    -------
    DataFrame
        One row per structure: mean [95 % interval] over patients of DSC [%] and MPTS [mm], as in
        `summarise_scores` (no interval for fewer than five patients); the numbers of patients and
        of their exams; and the values of the paper, with the number of volumes.
    """
    rows = []
    for kind, table in scores.items():
        for tissue, row in summarise_scores(table).iterrows():
            published = SEGMENTATION.get(str(tissue))
            is_cartilage = kind == "cartilage" and published is not None
            rows.append(
                {
                    "structure": f"{tissue} cartilage" if is_cartilage else str(tissue),
                    "DSC [%]": _format_interval(
                        *(100 * row[["dsc", "dsc_low", "dsc_high"]]), digits=1
                    ),
                    "MPTS [mm]": _format_interval(
                        *row[["mpts_mm", "mpts_low", "mpts_high"]], digits=3
                    ),
                    "patients": _format_count(row, "patients"),
                    "exams": _format_count(row, "n"),
                    **_published_cells(kind, published),
                }
            )
    return pd.DataFrame(rows)


def _published_cells(
    kind: str, published: Mapping[str, tuple[float, float, float]] | None
) -> dict[str, str]:
    if published is None:
        names = ("paper: DSC [%]", "paper: MPTS [mm]", "paper: volumes")
        return dict.fromkeys(names, _NO_VALUE)
    return {
        "paper: DSC [%]": _format_interval(*published["dsc"], digits=1),
        "paper: MPTS [mm]": _format_interval(*published["mpts_mm"], digits=3),
        "paper: volumes": f"{SEGMENTATION_N[kind]}",
    }


def _format_count(row: pd.Series[float], unit: str) -> str:
    overlap, surfaces = int(row[f"dsc_{unit}"]), int(row[f"mpts_{unit}"])
    return f"{overlap:,}" + (f" (MPTS: {surfaces:,})" if surfaces != overlap else "")


def _format_interval(mean: float, low: float, high: float, *, digits: int) -> str:
    if not np.isfinite(mean):
        return _NO_VALUE
    if not np.isfinite(low):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def segmentation_results(
    lake: Lake,
    cohort: Cohort,
    progress: Callable[[int, int], None] | None = None,
    *,
    models: Sequence[str | os.PathLike[str]] = (),
) -> SegmentationResults | None:
    """Compare the masks of a cohort with their references.

    Parameters
    ----------
    lake : Lake
    cohort : Cohort
    progress : callable, optional
        Called with the numbers of completed masks and of all masks.
    models : sequence of paths, optional
        Folders of ensembles. Only the test exams of these ensembles are compared. Their training
        and validation exams, and exams in none of their sets, are excluded and counted. Default:
        all exams with a mask and a reference, with a warning that it is unknown whether they are
        held out.

    Returns
    -------
    SegmentationResults or None
        The results, or None if no exam has a mask and a reference and no ensemble was named.
    """
    test = find_held_out(models)
    chosen: dict[Kind, Cohort] = {}
    descriptions, warnings = [], []
    for kind in _KINDS:
        unseen = test.get(kind)
        available = scored(lake, cohort, kind)
        exams = _test_exams(available, unseen)
        if len(exams):
            chosen[kind] = exams
            warning = (
                _unknown_origin_warning(lake, exams, kind)
                if unseen is None
                else _foreign_masks_warning(lake, exams, kind, unseen)
            )
            held_out = unseen is not None and not warning
            text = _describe_exams(exams, kind, held_out=held_out)
            descriptions.append(text + _describe_excluded(available, unseen))
            warnings += [warning] if warning else []
        elif unseen is not None:
            warnings.append(
                f"{_TITLES[kind]}: not compared. No test exam of the named ensemble has both a "
                "mask and a reference in this lake."
            )
    if not chosen and not warnings:
        return None
    scores = _score(lake, chosen, progress)
    figures = {}
    for kind, table in scores.items():
        shown = best_median_worst(table)
        figures[_caption(kind, shown)] = figure_s2(lake, shown, kind, table)
    return SegmentationResults(
        table=table_s1(scores),
        per_exam=_per_exam(scores),
        figures=figures,
        exams="; ".join(descriptions),
        may_include_training_exams=not set(chosen) <= set(test),
        warnings=tuple(warnings),
    )


def _score(
    lake: Lake, cohorts: Mapping[Kind, Cohort], progress: Callable[[int, int], None] | None
) -> dict[Kind, pd.DataFrame]:
    total = sum(map(len, cohorts.values()))
    done = 0

    def advance(_done: int, _total: int) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return {
        kind: score_exams(lake, exams, kind, progress=advance) for kind, exams in cohorts.items()
    }


def _test_exams(cohort: Cohort, test: HeldOut | None) -> Cohort:
    return cohort if test is None else cohort.of_exams(test.exams, "in the test set")


def _describe_exams(exams: Cohort, kind: Kind, *, held_out: bool) -> str:
    text = f"{counted(len(exams), 'exam')} of {counted(exams.patients, 'patient')}"
    return f"{_TITLES[kind].lower()}: {text}" + ", held out from training" * held_out


def _describe_excluded(available: Cohort, test: HeldOut | None) -> str:
    """Return the numbers of exams that are excluded since they are not test exams."""
    if test is None:
        return ""
    others = set(available.exams["exam"]) - set(test.exams)
    used = len(others & test.used)
    parts = [f"{counted(used, 'training or validation exam')} of the networks"] if used else []
    if rest := len(others) - used:
        parts.append(f"{counted(rest, 'exam')} in no set of the networks")
    return f" (excluded: {', '.join(parts)})" if parts else ""


def _unknown_origin_warning(lake: Lake, exams: Cohort, kind: Kind) -> str:
    """Return a warning that the masks may be of training exams, with the origin of the masks."""
    makers = count_other_sources(lake, exams, kind, frozenset())
    names = {"by other networks": "by networks that were not named"}
    text = ", ".join(f"{count:,} {names.get(maker, maker)}" for maker, count in makers.items())
    return (
        f"{_TITLES[kind]}: it is unknown whether {counted(len(exams), 'exam')} of the comparison "
        f"(masks: {text}) are held out from training. They may include training exams, so the "
        "values may be too optimistic. Name the ensemble to compare its held-out exams only."
    )


def _foreign_masks_warning(lake: Lake, exams: Cohort, kind: Kind, test: HeldOut) -> str:
    """Return a warning if the named ensemble did not make all masks of its test exams."""
    makers = count_other_sources(lake, exams, kind, test.networks)
    if not makers:
        return ""
    text = ", ".join(f"{count:,} {maker}" for maker, count in makers.items())
    return (
        f"{_TITLES[kind]}: {sum(makers.values()):,} of {counted(len(exams), 'mask')} not made by "
        f"the named ensemble ({text}). These exams may not be held out from the training of the "
        "networks that made the masks, so the values may be too optimistic."
    )


def _per_exam(scores: Mapping[Kind, pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat([pd.DataFrame(columns=COLUMNS), *scores.values()], ignore_index=True)
    return pd.DataFrame(
        {
            "exam": table["exam"],
            "structure": table["tissue"],
            "DSC [%]": [f"{100 * x:.1f}" if np.isfinite(x) else _NO_VALUE for x in table["dsc"]],
            "MPTS [mm]": [f"{x:.3f}" if np.isfinite(x) else _NO_VALUE for x in table["mpts_mm"]],
            "note": table["reason"],
        }
    )


def _caption(kind: Kind, exams: Mapping[str, str]) -> str:
    names = list(exams.values())
    if len(names) == 1:
        return f"Figure S2, {_TITLES[kind].lower()}: the only exam"
    ranks = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"Figure S2, {_TITLES[kind].lower()}: {ranks} exam by mean MPTS"
