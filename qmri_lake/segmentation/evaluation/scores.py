"""Agreement of masks with their references, per exam, and averaged over patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.geometry import voxel_spacing
from qmri_lake.core.json_types import JsonObject
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.execution.exam_io import read_exam
from qmri_lake.schema.variable import with_variant
from qmri_lake.segmentation.metrics import dice, mean_surface_distance
from qmri_lake.segmentation.metrics.mask_surfaces import FieldOfViewEdge
from qmri_lake.statistics.interval_limits import Scale
from qmri_lake.statistics.mean_interval import mean_interval
from qmri_lake.tissues import BONE, CARTILAGE, NO_MASK

if TYPE_CHECKING:
    import xarray as xr

    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = [
    "COLUMNS",
    "TISSUES",
    "Kind",
    "score_exams",
    "score_labels",
    "scored",
    "summarise_scores",
]

Kind = Literal["bone", "cartilage"]
Labels = NDArray[np.uint8]

TISSUES: dict[str, dict[str, int]] = {
    "bone": {name: value for name, value in BONE.items() if value},
    "cartilage": {name: value for name, value in CARTILAGE.items() if value},
}
"""Labels that are scored, by kind of mask."""

COLUMNS = ["exam", "patient", "tissue", "dsc", "mpts_mm", "reason"]


def score_labels(
    labels: Labels,
    reference: Labels,
    spacing: ArrayLike,
    tissues: Mapping[str, int],
    *,
    fov_edge: FieldOfViewEdge = "ignore",
) -> list[JsonObject]:
    """Compare the labels of one exam with their reference.

    Parameters
    ----------
    labels, reference : (slice, row, column) uint8
        No voxel may be 255 (not segmented).
    spacing : (3,)
        Distance between voxel centres along the array axes, mm.
    tissues : mapping of name to value
        Tissues to compare, such as ``TISSUES["bone"]``.
    fov_edge : {"ignore", "surface"}
        As in `qmri_lake.segmentation.metrics.mean_surface_distance`.

    Returns
    -------
    list of dict
        One dict per tissue: `tissue`; `dsc`, 0 to 1; `mpts_mm`, mm; and `reason`, which states why
        a value is NaN. Both values are NaN for a tissue that is absent from the reference, since
        the tissue may not have been segmented there. If a tissue is absent from the mask, DSC is 0
        and MPTS is NaN.
    """
    for name, array in (("labels", labels), ("reference", reference)):
        if (array == NO_MASK).any():
            raise InputError(
                f"{name} with voxels that are 255 (not segmented)",
                expected="a label in every voxel",
                where="score_labels",
                todo="Choose exams that have both masks.",
                reason=Reason.ABSENT_EXAM,
            )
    rows = []
    for tissue, value in tissues.items():
        mask, truth = labels == value, reference == value
        dsc, mpts, reason = float("nan"), float("nan"), ""
        if not truth.any():
            reason = "not in the reference"
        else:
            dsc = dice(mask, truth)
            try:
                mpts = mean_surface_distance(mask, truth, spacing, fov_edge=fov_edge)
            except InputError as error:
                if error.reason != Reason.EMPTY_MASK:
                    raise
                reason = "no surface inside the field of view" if mask.any() else "not in the mask"
        rows.append({"tissue": tissue, "dsc": dsc, "mpts_mm": mpts, "reason": reason})
    return rows


def scored(
    lake: Lake, cohort: Cohort | str | None = None, kind: Kind = "bone", *, variant: str = ""
) -> Cohort:
    """Return the exams of a cohort that have a mask and its reference.

    The parameters are those of `score_exams`. The cohort is empty if the lake lacks one of these
    arrays.
    """
    _check_kind(kind)
    chosen = lake.resolve(cohort)
    paths = [f"dess/{with_variant(kind, variant)}", f"dess/reference_{kind}"]
    if not set(paths) <= set(lake.variables()):
        return chosen.keep(
            np.zeros(len(chosen), bool), f"has {' and '.join(paths)}", "no such array"
        )
    return chosen.require(*paths)


def score_exams(
    lake: Lake,
    cohort: Cohort | str | None = None,
    kind: Kind = "bone",
    *,
    variant: str = "",
    fov_edge: FieldOfViewEdge = "ignore",
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Compare the masks of a cohort with their references, one exam after another.

    Parameters
    ----------
    lake : Lake
    cohort : Cohort or query, optional
        Exams to compare. Only those with both ``dess/<kind>`` and ``dess/reference_<kind>`` are
        used. Give held-out exams, since scores of exams that a network was trained on are biased.
    kind : {"bone", "cartilage"}
    variant : str
        Variant of the mask.
    fov_edge : {"ignore", "surface"}
        As in `qmri_lake.segmentation.metrics.mean_surface_distance`.
    progress : callable, optional
        Function called with the number of completed exams and the number of all exams.

    Returns
    -------
    DataFrame
        A row for each exam and tissue: exam, patient, tissue, dsc (0 to 1), mpts_mm, reason, as in
        `score_labels`.

    Raises
    ------
    NotFoundError
        If no exam has both a mask and its reference.
    """
    chosen = scored(lake, cohort, kind, variant=variant)
    if not len(chosen):
        raise NotFoundError(
            f"no exam with both dess/{with_variant(kind, variant)} and dess/reference_{kind}",
            expected="at least one exam",
            where=lake.url,
            todo="Import references, and segment or import masks.",
        )
    names = [with_variant(kind, variant), f"reference_{kind}"]
    rows = []
    for done, (row, exam) in enumerate(zip(chosen.rows, _exams(lake, chosen, names), strict=True)):
        labels, reference = (exam[name].values for name in names)
        spacing = voxel_spacing(exam["affine"].values)
        key = {"exam": exam["exam"].item(), "patient": int(lake.patients[row])}
        rows += [
            {**key, **score}
            for score in score_labels(labels, reference, spacing, TISSUES[kind], fov_edge=fov_edge)
        ]
        if progress is not None:
            progress(done + 1, len(chosen))
    return pd.DataFrame(rows, columns=COLUMNS)


def _exams(lake: Lake, cohort: Cohort, names: list[str]) -> Iterator[xr.Dataset]:
    """Yield the exams one by one, so that only one exam is in memory."""
    for row in cohort.rows:
        yield read_exam(lake.root, "dess", [*names, "affine"], int(row))


_MEASURES: tuple[tuple[str, str, Scale], ...] = (
    ("dsc", "dsc", "logit"),
    ("mpts", "mpts_mm", "log"),
)
"""Prefix of the summary, column of the scores, and scale of the interval of each measure."""


def summarise_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Average the scores of `score_exams` over patients, with 95 % intervals.

    The exams of a patient are not independent, so they are averaged first; `mean_interval` is
    computed from the means of the patients, on the logit scale for the DSC and on the log scale for
    the MPTS. Each patient has the same weight, whatever the number of exams.

    The paper counts volumes rather than patients. It states neither the method for its intervals
    nor whether a patient has several volumes in a test set. With one volume per patient, the result
    is the interval over volumes. [assumption]

    Returns
    -------
    DataFrame
        Indexed by tissue: dsc, dsc_low, dsc_high (0 to 1), dsc_n, dsc_patients; mpts_mm, mpts_low,
        mpts_high (mm), mpts_n, mpts_patients. The numbers of exams (n) and of patients include only
        those with a value. They differ between DSC and MPTS if a mask lacks a tissue. The limits
        are NaN for fewer than five patients.
    """
    rows = {}
    for tissue, group in table.groupby("tissue", sort=False):
        row: dict[str, float] = {}
        for name, column, scale in _MEASURES:
            patients = group.groupby("patient")[column].mean().dropna()
            mean, low, high = mean_interval(patients, scale=scale)
            row |= {
                column: mean,
                f"{name}_low": low,
                f"{name}_high": high,
                f"{name}_n": group[column].count(),
                f"{name}_patients": len(patients),
            }
        rows[tissue] = row
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("tissue")
    counts = [f"{name}_{what}" for name in ("dsc", "mpts") for what in ("n", "patients")]
    return frame.astype(dict.fromkeys(counts, int))


def _check_kind(kind: str) -> None:
    if kind not in TISSUES:
        raise InputError(f"kind={kind!r}", expected="bone or cartilage", where="score_exams")
