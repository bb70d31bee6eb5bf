"""Labels of one grid on another one: each target voxel takes what fills it."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.tissues import CARTILAGE, NO_MASK

__all__ = ["MASK_RULES", "MaskRule", "carry_labels", "check_labels", "check_option", "share_inside"]

MaskRule = Literal["half", "nearest"]
MASK_RULES: tuple[str, ...] = get_args(MaskRule)

_SAMPLES = (10, 3, 3)
"""Sub-samples of an MSME voxel: two in each DESS voxel that it crosses, 3.5 by 0.43 mm in size."""


def carry_labels(
    labels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    target_affine: NDArray[np.float64],
    target: tuple[int, int, int] | tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    transform: NDArray[np.float64] | None = None,
    *,
    mask: MaskRule = "half",
) -> NDArray[np.uint8]:
    """Return cartilage labels of one grid on another one.

    Parameters
    ----------
    labels : (slice, row, column) uint8
        `qmri_lake.tissues.CARTILAGE`; no voxel may be 255.
    affine, target_affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm, of `labels` and of the target.
    target : (slices, rows, columns), or the voxel indices along each of these axes
    transform : (4, 4) float64, optional
        x_target = T x_labels in LPS mm; default: none, both lie in one world.
    mask : {"half", "nearest"}
        A target voxel, a box of the slice *spacing* thick, is cartilage if at least half of it is,
        of the kind that has the most of it; it is meniscus if half of it is. Or: the label at its
        centre. [assumption]

    Returns
    -------
    (slice, row, column) uint8
        0, background, beyond the field of view of `labels` too.

    Raises
    ------
    InputError
        Labels that are 255, since never segmented is not background, or that have no name. An
        affine that is not finite. Grids that don't overlap.
    """
    from qmri_lake.registration.votes import vote

    check_option("mask", mask, MASK_RULES, "carry_labels")
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
    box = _box_of(labels)
    if box is None:
        return out
    # Only where cartilage can be: its box, in target voxels, one more on each side.
    corners = np.array([[*c, 1.0] for c in np.stack(np.meshgrid(*box), -1).reshape(-1, 3)])
    reached = corners @ np.linalg.inv(matrix).T[:, :3]
    low, high = reached.min(axis=0) - 1, reached.max(axis=0) + 1
    near = [np.flatnonzero((i >= a) & (i <= b)) for i, a, b in zip(index, low, high, strict=True)]
    if not all(n.size for n in near):
        return out
    steps = _sub_samples(_SAMPLES if mask == "half" else (1, 1, 1))
    part = np.zeros([n.size for n in near], np.uint8)
    vote(
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
    """Return the part of all labelled voxels that lies inside a target grid, 0 to 1.

    Parameters are those of `carry_labels`; NaN if no voxel has a label.
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
    """Return the map (4, 4) from target voxels to voxels of the labels."""
    back = np.eye(4) if transform is None else transform
    for name, matrix in (("DESS", affine), ("MSME", target_affine), ("dess_to_msme", back)):
        if np.shape(matrix) != (4, 4) or not np.isfinite(matrix).all():
            raise InputError(
                f"no finite affine of {name}", expected="4 x 4 numbers", where="register",
                todo="Choose exams that have both images: cohort.require('dess/image') and "
                "require('msme/image').", reason=Reason.ABSENT_EXAM,
            )  # fmt: skip
    there: NDArray[np.float64] = np.linalg.inv(back @ affine) @ target_affine
    return there


def _check_overlap(
    matrix: NDArray[np.float64],
    shape: tuple[int, ...],
    index: tuple[NDArray[np.float64], ...],
) -> None:
    """Refuse grids that lie in different places: their headers can't be of one knee."""
    probes = [np.linspace(i.min() - 0.5, i.max() + 0.5, 24) for i in index]
    points = np.stack(np.meshgrid(*probes, indexing="ij"), axis=-1).reshape(-1, 3)
    there = points @ matrix[:3, :3].T + matrix[:3, 3]
    if ((there >= -0.5) & (there <= np.array(shape) - 0.5)).all(axis=1).any():
        return
    away = np.linalg.norm(there.mean(axis=0) - (np.array(shape) - 1) / 2)
    raise InputError(
        f"an MSME grid that lies wholly outside the DESS ({away:.0f} DESS voxels from its centre)",
        expected="two series of one knee, that overlap",
        where="register",
        todo="Check that both series are of one knee and one study.",
        reason=Reason.GRID_MISMATCH,
    )


def _box_of(labels: NDArray[np.uint8]) -> list[tuple[float, float]] | None:
    """Return (low, high) of the labelled voxels' edges along each axis; None if there are none."""
    found = labels != 0
    lines = [np.flatnonzero(found.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return [(n[0] - 0.5, n[-1] + 0.5) for n in lines] if lines[0].size else None


def _sub_samples(counts: tuple[int, int, int]) -> NDArray[np.float64]:
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def check_labels(labels: NDArray[np.uint8]) -> None:
    """Refuse labels that say of some voxel that nobody looked at it, or that have no name."""
    if (labels == NO_MASK).any():
        raise InputError(
            "a DESS that was not segmented" if (labels == NO_MASK).all() else
            f"{int((labels == NO_MASK).sum()):,} DESS voxels without a label",
            expected="cartilage labels on the DESS grid", where="register",
            todo="Segment or import cartilage masks first.", reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    if labels.size and labels.max() > max(CARTILAGE.values()):
        raise InputError(
            f"label {labels.max()}", expected=f"at most {max(CARTILAGE.values())}",
            where="register", reason=Reason.UNKNOWN_LABEL,
        )  # fmt: skip


def check_option(name: str, value: object, known: tuple[str, ...], where: str) -> None:
    """Refuse a value that is none of the known ones."""
    if not isinstance(value, str) or value not in known:
        raise RunError(f"{name}={value!r}", expected=" or ".join(known), where=where)
