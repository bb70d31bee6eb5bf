"""Cartilage labels from the DESS to the multi-echo (MSME) grid, lazily in a session or as a run."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.compute import one_exam_a_block
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.steps import step
from qmri_lake.tissues import CARTILAGE, NO_MASK
from qmri_lake.variables import REGISTRY

__all__ = ["carry_labels", "register", "register_exam", "share_inside"]

Method = Literal["scanner"]
MaskRule = Literal["half", "nearest"]

_VOLUME = ("slice", "row", "column")
_OPTIONS = {"method": ("scanner",), "mask": ("half", "nearest")}
_SAMPLES = (10, 3, 3)
"""Sub-samples of an MSME voxel: two in each DESS voxel that it crosses, 3.5 by 0.43 mm in size."""
_LEAST_SHARE = 0.9
"""Less of the cartilage inside the MSME's field of view is flagged."""


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
    from qmri_lake.label_votes import vote

    _check_option("mask", mask, "carry_labels")
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


def _check_option(name: str, value: object, where: str) -> None:
    if not isinstance(value, str) or value not in _OPTIONS[name]:
        raise RunError(f"{name}={value!r}", expected=" or ".join(_OPTIONS[name]), where=where)


def _check_parameters(*, method: object, mask: object) -> None:
    _check_option("method", method, "step register")
    _check_option("mask", mask, "step register")


@step(
    reads={"dess": ("cartilage", "affine"), "msme": ("affine", "extent")},
    writes=REGISTRY.made_by("register"),
    name="register",
    check=_check_parameters,
)
def register_exam(
    dess: xr.Dataset, msme: xr.Dataset, *, method: Method = "scanner", mask: MaskRule = "half"
) -> xr.Dataset:
    """Carry the cartilage labels of one exam; the parameters are those of `register`."""
    labels, affine = dess["cartilage"].values, dess["affine"].values
    extent = msme["extent"].values
    shape = int(extent[0]), int(extent[1]), int(extent[2])
    transform = _transform(method)
    carried = carry_labels(labels, affine, msme["affine"].values, shape, transform, mask=mask)
    result = xr.Dataset(
        {"dess_to_msme": (("world", "voxel"), transform), "cartilage": (_VOLUME, carried)}
    )
    odd = _oddities(labels, carried, share_inside(labels, affine, msme["affine"].values, shape,
                                                  transform))  # fmt: skip
    return result.assign_attrs(flag="; ".join(odd)) if odd else result


def _oddities(labels: NDArray[np.uint8], carried: NDArray[np.uint8], inside: float) -> list[str]:
    """Say what a reader of T2 should know of an exam's overlap, in short texts."""
    if not labels.any():
        return ["no cartilage in the DESS labels"]
    lost = [
        name
        for name, value in CARTILAGE.items()
        if value and (labels == value).any() and not (carried == value).any()
    ]
    odd = [f"no {' or '.join(lost)} left on the MSME grid"] if lost else []
    if inside < _LEAST_SHARE:
        odd.append(f"{inside:.0%} of the labelled tissue is inside the MSME's field of view")
    return odd


def _transform(method: Method) -> NDArray[np.float64]:
    """Return dess_to_msme of one exam; "scanner": both series lie in the scanner's one world."""
    assert method == "scanner"
    return np.eye(4)


def register(
    dess: xr.Dataset,
    msme: xr.Dataset,
    *,
    method: Method = "scanner",
    mask: MaskRule = "half",
) -> xr.Dataset:
    """Add cartilage labels on the MSME grid, and the transform that led there, lazily.

    Parameters
    ----------
    dess : Dataset
        Group ``dess``: `cartilage` (exam, slice, row, column), `affine`, and `extent` where exams
        differ. Whole volumes; without ``exam`` for one exam.
    msme : Dataset
        Group ``msme`` of the same exams in the same order, with `affine` and `extent`. Neither is
        modified.
    method : {"scanner"}
        Where the two series lie to each other. ``"scanner"``: as the scanner says, so a patient
        who moved between them is not followed, and `dess_to_msme` is the identity. [assumption]
    mask : {"half", "nearest"}
        An MSME voxel, a box as thick as the slice spacing, is cartilage if at least half of it is;
        or: the label at its centre. [assumption]

    Returns
    -------
    Dataset
        `msme` with `dess_to_msme` (exam, world, voxel), x_msme = T x_dess in LPS mm, and
        `cartilage` (exam, slice, row, column) uint8, both lazy. Beyond the DESS is background;
        beyond an exam's extent 255.

    Raises
    ------
    NotFoundError
        A variable that is needed is not there.
    InputError
        Other exams in `dess` than in `msme`. When computed: an exam whose DESS was never
        segmented, or whose two series don't overlap.
    """
    _check_option("method", method, "register")
    _check_option("mask", mask, "register")
    _check_pair(dess, msme)
    renamed = {dim: f"dess_{dim}" for dim in _VOLUME}
    drop = [dim for dim in _VOLUME if dim in dess.coords]
    inputs = {
        "labels": dess["cartilage"].drop_vars(drop).rename(renamed),
        "affine": dess["affine"],
        "target_affine": msme["affine"],
    }
    if "extent" in dess:
        inputs["extent"] = dess["extent"]
    if "extent" in msme:
        inputs["target_extent"] = msme["extent"]
    core = {"labels": [*renamed.values()], "extent": ["axis"], "target_extent": ["axis"]}
    index = tuple(
        np.asarray(msme[dim] if dim in msme.coords else np.arange(msme.sizes[dim]), np.float64)
        for dim in _VOLUME
    )
    transforms, carried = xr.apply_ufunc(
        _register_block,
        *(one_exam_a_block(xr.DataArray(array.variable)) for array in inputs.values()),
        input_core_dims=[core.get(name, ["world", "voxel"]) for name in inputs],
        output_core_dims=[["world", "voxel"], list(_VOLUME)],
        kwargs={"names": list(inputs), "index": index, "method": method, "mask": mask},
        dask="parallelized",
        output_dtypes=[np.float64, np.uint8],
        dask_gufunc_kwargs={
            "output_sizes": {dim: len(i) for dim, i in zip(_VOLUME, index, strict=True)}
        },
        keep_attrs=False,
    )
    made = {"dess_to_msme": transforms, "cartilage": carried}
    return msme.assign(
        {
            name: array.variable.copy(deep=False)._replace(
                attrs=REGISTRY[f"msme/{name}"].attributes()
            )
            for name, array in made.items()
        }
    )


def _check_pair(dess: xr.Dataset, msme: xr.Dataset) -> None:
    """Refuse Datasets of other exams, or that lack something."""
    for group, ds, names in (("dess", dess, ("cartilage", "affine")), ("msme", msme, ("affine",))):
        for name in (*names, *_VOLUME):
            if name not in (ds if name in names else ds.dims):
                raise NotFoundError(
                    f"no {'variable' if name in names else 'dimension'} {name!r} in {group}",
                    expected=", ".join(names),
                    where="register",
                    todo=f"Load group {group}.",
                )
    exams = [
        np.atleast_1d(ds["exam"].values).tolist() if "exam" in ds.coords else [None]
        for ds in (dess, msme)
    ]
    if ("exam" in dess.dims) != ("exam" in msme.dims) or (
        exams[0] != exams[1] and [None] not in exams
    ):
        raise InputError(
            f"{len(exams[0])} exams in dess and {len(exams[1])} in msme, not the same ones",
            expected="the same exams in the same order",
            where="register",
            todo="Load both with one cohort: "
            "lake.cohort().require('dess/cartilage').require('msme/image').",
            reason=Reason.ABSENT_EXAM,
        )
    for dim in _VOLUME:
        if dim in dess.coords and (dess[dim].values != np.arange(dess.sizes[dim])).any():
            raise InputError(
                f"a part of the DESS along {dim}", expected="whole volumes", where="register",
                todo="Select voxels of the result.",
            )  # fmt: skip


def _register_block(*arrays: Any, names: list[str], **options: Any) -> Any:
    """Register a Dask block of any number of exams, one after another."""
    if arrays[0].ndim == 3:
        return _register_inside(dict(zip(names, arrays, strict=True)), **options)
    shape = [len(i) for i in options["index"]]
    transforms = np.empty((len(arrays[0]), 4, 4))
    carried = np.empty((len(arrays[0]), *shape), np.uint8)
    for row, exam in enumerate(zip(*arrays, strict=True)):
        transforms[row], carried[row] = _register_inside(
            dict(zip(names, exam, strict=True)), **options
        )
    return transforms, carried


def _register_inside(
    exam: dict[str, Any],
    index: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    method: Method,
    mask: MaskRule,
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Register one exam inside its own extents; beyond them is fill, as in the lake."""
    labels = exam["labels"]
    if "extent" in exam and (exam["extent"] > 0).all():
        labels = labels[tuple(slice(0, int(n)) for n in exam["extent"])]
    within = exam.get("target_extent", np.full(3, np.inf))
    inside = [np.flatnonzero(i < n) for i, n in zip(index, within, strict=True)]
    transform = _transform(method)
    target = index[0][inside[0]], index[1][inside[1]], index[2][inside[2]]
    out = np.full([len(i) for i in index], NO_MASK, np.uint8)
    out[np.ix_(*inside)] = carry_labels(
        labels, exam["affine"], exam["target_affine"], target, transform, mask=mask
    )
    return transform, out
