"""Transfer of labels between grids: each target voxel gets the label that fills at least half."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.tissues import CARTILAGE, NO_MASK

__all__ = [
    "MASK_RULES",
    "MaskRule",
    "check_labels",
    "check_option",
    "share_inside",
    "transfer_labels",
]

MaskRule = Literal["half", "nearest"]
MASK_RULES: tuple[str, ...] = get_args(MaskRule)

_SAMPLES = (10, 3, 3)
"""Number of sub-samples along each axis of an MSME voxel of 3.5 mm by 0.43 mm: two in each DESS
voxel that the MSME voxel crosses."""


def transfer_labels(
    labels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    target_affine: NDArray[np.float64],
    target: tuple[int, int, int] | tuple[Values, Values, Values],
    transform: NDArray[np.float64] | None = None,
    *,
    mask: MaskRule = "half",
) -> NDArray[np.uint8]:
    """Transfer cartilage labels from one grid to another.

    Parameters
    ----------
    labels : (slice, row, column) uint8
        Labels of `qmri_lake.tissues.CARTILAGE`; no voxel may be 255.
    affine, target_affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm, for `labels` and for the target.
    target : (slices, rows, columns), or the voxel indices along each of these axes
    transform : (4, 4) float64, optional
        Transform T in x_target = T x_labels, in LPS mm; default: the identity.
    mask : {"half", "nearest"}
        A target voxel is a box that is as thick as the slice *spacing*. ``"half"``: the voxel is
        cartilage if cartilage fills at least half of it, with the label of the largest part. It is
        meniscus if meniscus fills at least half of it. ``"nearest"``: the voxel gets the label at
        its centre. [assumption]

    Returns
    -------
    (slice, row, column) uint8
        Labels; 0 is background. Voxels outside the field of view of `labels` are also 0.

    Raises
    ------
    InputError
        If labels are 255, since voxels that were never segmented are not background; if labels are
        unknown; if an affine contains NaN or infinity; or if the grids do not overlap.
    """
    from qmri_lake.registration.label_transfer_numba import majority_labels

    check_option("mask", mask, MASK_RULES, "transfer_labels")
    check_labels(labels)
    index = tuple(
        np.arange(n, dtype=np.float64) if isinstance(n, int) else np.asarray(n, np.float64)
        for n in target
    )
    out = np.zeros([len(i) for i in index], np.uint8)
    if not out.size:
        return out
    matrix = _index_map(affine, target_affine, transform)
    _check_overlap(matrix, labels.shape, index)
    box = _label_box(labels)
    if box is None:
        return out
    # Only compute voxels that may contain cartilage: its bounding box in target voxels, with one
    # more voxel on each side.
    corners = np.array([[*c, 1.0] for c in np.stack(np.meshgrid(*box), -1).reshape(-1, 3)])
    reached = corners @ np.linalg.inv(matrix).T[:, :3]
    low, high = reached.min(axis=0) - 1, reached.max(axis=0) + 1
    near = [np.flatnonzero((i >= a) & (i <= b)) for i, a, b in zip(index, low, high, strict=True)]
    if not all(n.size for n in near):
        return out
    steps = _sub_samples(_SAMPLES if mask == "half" else (1, 1, 1))
    part = np.zeros([n.size for n in near], np.uint8)
    majority_labels(
        np.ascontiguousarray(labels),
        np.ascontiguousarray(matrix[:3]),
        tuple(i[n] for i, n in zip(index, near, strict=True)),
        steps,
        (len(steps) + 1) // 2,
        CARTILAGE["patellar"],
        part,
    )
    out[np.ix_(*near)] = part
    return out


def share_inside(
    labels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    target_affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    transform: NDArray[np.float64] | None = None,
) -> float:
    """Return the share of all labelled voxels that lies inside a target grid, 0 to 1.

    The share is NaN if no voxel has a label. The parameters are those of `transfer_labels`.
    """
    points = np.argwhere((labels != 0) & (labels != NO_MASK))
    if not len(points):
        return float("nan")
    back = np.linalg.inv(_index_map(affine, target_affine, transform))
    index = points @ back[:3, :3].T + back[:3, 3]
    inside = (index >= -0.5) & (index < np.array(shape) - 0.5)
    return float(inside.all(axis=1).mean())


def _index_map(
    affine: NDArray[np.float64],
    target_affine: NDArray[np.float64],
    transform: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Return the transform (4, 4) from target voxels to voxels of the labels."""
    back = np.eye(4) if transform is None else transform
    for name, matrix in (("DESS", affine), ("MSME", target_affine), ("dess_to_msme", back)):
        if np.shape(matrix) != (4, 4) or not np.isfinite(matrix).all():
            raise InputError(
                f"the affine of {name} contains NaN or infinity, or is not 4 x 4",
                expected="4 x 4 finite numbers",
                where="register",
                todo="Choose exams that have both images: cohort.require('dess/image') and "
                "require('msme/image').",
                reason=Reason.ABSENT_EXAM,
            )
    there: NDArray[np.float64] = np.linalg.inv(back @ affine) @ target_affine
    return there


def _check_overlap(
    matrix: NDArray[np.float64],
    shape: tuple[int, ...],
    index: tuple[NDArray[np.float64], ...],
) -> None:
    """Raise an error for grids that do not overlap, since they cannot show the same knee."""
    probes = [np.linspace(i.min() - 0.5, i.max() + 0.5, 24) for i in index]
    points = np.stack(np.meshgrid(*probes, indexing="ij"), axis=-1).reshape(-1, 3)
    there = points @ matrix[:3, :3].T + matrix[:3, 3]
    if ((there >= -0.5) & (there <= np.array(shape) - 0.5)).all(axis=1).any():
        return
    away = np.linalg.norm(there.mean(axis=0) - (np.array(shape) - 1) / 2)
    raise InputError(
        f"an MSME grid completely outside the DESS ({away:.0f} DESS voxels from its centre)",
        expected="two overlapping series of one knee",
        where="register",
        todo="Check that both series are from the same knee and the same study.",
        reason=Reason.GRID_MISMATCH,
    )


def _label_box(labels: NDArray[np.uint8]) -> list[tuple[float, float]] | None:
    """Return the edges (low, high) of the box of the labelled voxels, for each axis.

    Return None if no voxel has a label.
    """
    found = labels != 0
    lines = [np.flatnonzero(found.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return [(n[0] - 0.5, n[-1] + 0.5) for n in lines] if lines[0].size else None


def _sub_samples(counts: tuple[int, int, int]) -> NDArray[np.float64]:
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def check_labels(labels: NDArray[np.uint8]) -> None:
    """Raise an error for voxels that were never segmented or have an unknown label."""
    if (labels == NO_MASK).any():
        raise InputError(
            "a DESS that was never segmented"
            if (labels == NO_MASK).all()
            else f"{int((labels == NO_MASK).sum()):,} DESS voxels without a label",
            expected="cartilage labels on the DESS grid",
            where="register",
            todo="Segment or import cartilage masks first.",
            reason=Reason.ABSENT_EXAM,
        )
    if labels.size and labels.max() > max(CARTILAGE.values()):
        raise InputError(
            f"label {labels.max()}",
            expected=f"at most {max(CARTILAGE.values())}",
            where="register",
            reason=Reason.UNKNOWN_LABEL,
        )


def check_option(name: str, value: object, known: tuple[str, ...], where: str) -> None:
    """Raise an error for an unknown value of an option."""
    if not isinstance(value, str) or value not in known:
        raise RunError(f"{name}={value!r}", expected=" or ".join(known), where=where)
