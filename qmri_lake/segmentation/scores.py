"""How well masks agree with their references, exam by exam, and over patients with an interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.segmentation.metrics import FieldOfViewEdge, dice, mean_surface_distance
from qmri_lake.steps import read_exam
from qmri_lake.tissues import BONE, CARTILAGE, NO_MASK
from qmri_lake.variables import with_variant

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = [
    "COLUMNS",
    "TISSUES",
    "Kind",
    "mean_interval",
    "score_exams",
    "score_labels",
    "scored",
    "summarise_scores",
]  # fmt: skip

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
    spacing: Any,
    tissues: Mapping[str, int],
    *,
    fov_edge: FieldOfViewEdge = "ignore",
) -> list[dict[str, Any]]:
    """Compare the labels of one exam with their reference.

    Parameters
    ----------
    labels, reference : (slice, row, column) uint8
        No voxel may be 255.
    spacing : (3,)
        Distance of voxel centres along the array axes, mm.
    tissues : mapping of name to value
        Such as ``TISSUES["bone"]``.
    fov_edge : {"ignore", "surface"}
        As in `qmri_lake.segmentation.metrics.mean_surface_distance`.

    Returns
    -------
    list of dict
        One a tissue: `tissue`; `dsc`, 0 to 1; `mpts_mm`, mm; `reason`, why one of them is NaN. A
        tissue that the reference lacks has no value: nobody may have drawn it. One that the mask
        lacks has DSC 0, and no surface to measure.
    """
    for name, array in (("labels", labels), ("reference", reference)):
        if (array == NO_MASK).any():
            raise InputError(
                f"{name} with voxels that are 255, which is no mask",
                expected="a label in every voxel", where="score_labels",
                todo="Choose exams that have both masks.", reason=Reason.ABSENT_EXAM,
            )  # fmt: skip
    rows = []
    for tissue, value in tissues.items():
        ours, theirs = labels == value, reference == value
        dsc, mpts, reason = float("nan"), float("nan"), ""
        if not theirs.any():
            reason = "not in the reference"
        else:
            dsc = dice(ours, theirs)
            try:
                mpts = mean_surface_distance(ours, theirs, spacing, fov_edge=fov_edge)
            except InputError as error:
                if error.reason != Reason.EMPTY_MASK:
                    raise
                reason = "no surface inside the field of view" if ours.any() else "not in the mask"
        rows.append({"tissue": tissue, "dsc": dsc, "mpts_mm": mpts, "reason": reason})
    return rows


def scored(
    lake: Lake, cohort: Cohort | str | None = None, kind: Kind = "bone", *, variant: str = ""
) -> Cohort:
    """Return the exams of a cohort that have a mask and its reference.

    Parameters are those of `score_exams`; an empty cohort where the lake holds no such array.
    """
    _check_kind(kind)
    chosen = lake._cohort(cohort)
    paths = [f"dess/{with_variant(kind, variant)}", f"dess/reference_{kind}"]
    if not set(paths) <= set(lake.variables()):
        return chosen._keep(
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
        Which exams; of them, those with ``dess/<kind>`` and ``dess/reference_<kind>``. Exams that
        a network was trained on flatter it: give those that it was not.
    kind : {"bone", "cartilage"}
    variant : str
        Of the mask, where a second version is to be compared.
    fov_edge : {"ignore", "surface"}
        As in `qmri_lake.segmentation.metrics.mean_surface_distance`.
    progress : callable, optional
        Called with (done, total) exams.

    Returns
    -------
    DataFrame
        A row for each exam and tissue: exam, patient, tissue, dsc (0 to 1), mpts_mm, reason; as
        `score_labels`.

    Raises
    ------
    NotFoundError
        No exam has both.
    """
    chosen = scored(lake, cohort, kind, variant=variant)
    if not len(chosen):
        raise NotFoundError(
            f"no exam with both dess/{with_variant(kind, variant)} and dess/reference_{kind}",
            expected="at least one",
            where=lake.url,
            todo="Import references, and segment or import masks.",
        )
    names = [with_variant(kind, variant), f"reference_{kind}"]
    rows = []
    for done, (row, exam) in enumerate(zip(chosen.rows, _exams(lake, chosen, names), strict=True)):
        ours, theirs = (exam[name].values for name in names)
        spacing = np.linalg.norm(exam["affine"].values[:3, :3], axis=0)
        key = {"exam": exam["exam"].item(), "patient": int(lake.patients[row])}
        rows += [
            {**key, **score}
            for score in score_labels(ours, theirs, spacing, TISSUES[kind], fov_edge=fov_edge)
        ]
        if progress is not None:
            progress(done + 1, len(chosen))
    return pd.DataFrame(rows, columns=COLUMNS)


def _exams(lake: Lake, cohort: Cohort, names: list[str]) -> Iterator[Any]:
    """Yield the exams, one in memory at a time."""
    for row in cohort.rows:
        yield read_exam(lake.root, "dess", [*names, "affine"], int(row))


def mean_interval(values: Any, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean and its t interval: (mean, low, high).

    Of the paper's twelve intervals ten are symmetric about the mean, so they are of this kind or
    of the normal one; which is not said. [assumption]

    Parameters
    ----------
    values : (n,)
        Taken as independent; NaN is left out.
    level : float

    Returns
    -------
    (mean, low, high)
        In the unit of the values. NaN without a value, and limits NaN with one.

    Examples
    --------
    >>> [round(x, 3) for x in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    from scipy.stats import t

    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not known.size:
        return float("nan"), float("nan"), float("nan")
    mean = float(known.mean())
    if known.size == 1:
        return mean, float("nan"), float("nan")
    half = float(t.ppf((1 + level) / 2, known.size - 1) * known.std(ddof=1) / np.sqrt(known.size))
    return mean, mean - half, mean + half


def summarise_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Average the scores of `score_exams` over patients, with 95 % intervals.

    The knees and visits of one patient are alike, so that their exams are not independent: they
    are averaged first, and `mean_interval` is that of the patients' means. Each patient counts
    once, whatever the number of exams.

    The paper counts volumes, not patients, and says neither how it made its intervals nor whether
    a patient has several volumes in a test set. Where each has one, this is the interval over
    volumes. [assumption]

    Returns
    -------
    DataFrame
        Indexed by tissue: dsc, dsc_low, dsc_high (0 to 1), dsc_n, dsc_patients; mpts_mm, mpts_low,
        mpts_high (mm), mpts_n, mpts_patients. The numbers of exams (n) and of patients that have a
        value: they differ where a mask lacks a tissue.
    """
    rows = {}
    for tissue, group in table.groupby("tissue", sort=False):
        row: dict[str, float] = {}
        for name, column in (("dsc", "dsc"), ("mpts", "mpts_mm")):
            patients = group.groupby("patient")[column].mean().dropna()
            mean, low, high = mean_interval(patients)
            row |= {column: mean, f"{name}_low": low, f"{name}_high": high,
                    f"{name}_n": group[column].count(),
                    f"{name}_patients": len(patients)}  # fmt: skip
        rows[tissue] = row
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("tissue")
    counts = [f"{name}_{what}" for name in ("dsc", "mpts") for what in ("n", "patients")]
    return frame.astype(dict.fromkeys(counts, int))


def _check_kind(kind: str) -> None:
    if kind not in TISSUES:
        raise InputError(f"kind={kind!r}", expected="bone or cartilage", where="score_exams")
