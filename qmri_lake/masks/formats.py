"""Readers of mask files, one a format: what a file holds, in its own order of axes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, QmriLakeError, Reason
from qmri_lake.masks.contours import FIELDS, read_contours
from qmri_lake.masks.grids import Affine, Grid
from qmri_lake.masks.sources import unknown_label
from qmri_lake.summary import counted
from qmri_lake.tissues import BONE, CARTILAGE

__all__ = ["NEED_A_GRID", "SUFFIXES", "Content", "check_shape", "read_content", "suffix_of"]


@dataclass(slots=True)
class Content:
    """What a file holds, in its own order."""

    labels: NDArray[Any]
    affine: Affine | None
    """None where the file doesn't say where it lies: its order is then the exam's own."""
    names: Mapping[str, int] = field(default_factory=dict)
    """Numbers by the names that the file gives them."""
    tissues: Mapping[int, str] | None = None
    """What the file itself says of its numbers, instead of a table."""
    notes: list[str] = field(default_factory=list)


def suffix_of(name: str | os.PathLike[str]) -> str:
    """Return the suffix by which a file is read, such as ``.nii.gz``; "" where none is known."""
    lower = os.fspath(name).lower()
    return next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), "")


def read_content(path: str, grid: Grid | None) -> Content:
    """Read a file by its suffix; whatever is wrong with it is an `InputError`."""
    suffix = suffix_of(path)
    if not Path(path).is_file() or not suffix:
        raise InputError(
            "a file of another kind" if Path(path).is_file() else "no such file",
            expected=f"a file named {', '.join(SUFFIXES)}",
            where=path,
            todo="Check the path." if suffix else "Convert it to NIfTI, with its affine.",
            reason=Reason.UNREADABLE_FILE,
        )
    if grid is None and suffix in NEED_A_GRID:
        raise InputError(
            f"a {suffix} file, which doesn't say where it lies",
            expected="the exam that it belongs to",
            where=path,
            todo="Ingest the exam's DESS series first; like=lake.load('dess', ...).",
            reason=Reason.GRID_MISMATCH,
        )
    try:
        return SUFFIXES[suffix](path, grid)
    except QmriLakeError:
        raise
    except Exception as error:  # each library has errors of its own for a damaged file
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"a file that can't be read ({said or type(error).__name__})",
            expected=f"a whole {suffix} file",
            where=path,
            todo="Copy or download it again.",
            reason=Reason.UNREADABLE_FILE,
        ) from error


def _nifti(path: str, grid: Grid | None) -> Content:
    import nibabel

    image: Any = nibabel.load(path)
    header: Any = image.header
    if not (header["sform_code"] or header["qform_code"]):
        raise InputError(
            "no sform and no qform: nothing says where the mask lies",
            expected="one of them",
            where=path,
            todo="Copy the affine of the image into the file.",
            reason=Reason.GRID_MISMATCH,
        )
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, np.float64)  # RAS to LPS
    return Content(np.asanyarray(image.dataobj), affine)


_SPACES = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
"""Signs that turn a named space of NRRD into LPS."""


def _nrrd(path: str, grid: Grid | None) -> Content:
    import nrrd  # type: ignore[import-untyped]

    values, header = nrrd.read(path)
    space = str(header.get("space", "")).lower()
    directions = header.get("space directions")
    origin = header.get("space origin")
    if space not in _SPACES or directions is None or origin is None:
        raise InputError(
            f"space {space!r}" if space else "no space: nothing says where the mask lies",
            expected="left-posterior-superior, right-anterior-superior or left-anterior-superior, "
            "with space directions and space origin",
            where=path,
            todo="Export it again with its geometry.",
            reason=Reason.GRID_MISMATCH,
        )
    if values.ndim != 3:
        raise InputError(
            f"{values.ndim} dimensions: segments in layers that overlap",
            expected="one label map (slice, row, column)",
            where=path,
            todo="In 3D Slicer: collapse labelmap layers, or export as a label map.",
            reason=Reason.UNREADABLE_VALUE,
        )
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, float).T
    affine[:3, 3] = origin
    names = {
        str(header[f"Segment{n}_Name"]): int(header[f"Segment{n}_LabelValue"])
        for n in range(len(header))
        if f"Segment{n}_Name" in header and f"Segment{n}_LabelValue" in header
    }
    return Content(values, np.diag([*_SPACES[space], 1]) @ affine, names)


_CARTILAGE_FROM = 10
"""What is added to the cartilage labels of an .npz, so that both arrays are one map."""


def _npz(path: str, grid: Grid | None) -> Content:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name.startswith("dess_")}
    affine = arrays.get("dess_affine")
    found = [arrays[name] for name in ("dess_bone", "dess_cartilage") if name in arrays]
    if not found or affine is None or affine.shape != (4, 4):
        raise InputError(
            f"arrays named {', '.join(arrays) or 'otherwise'}",
            expected="dess_affine (4, 4), and dess_bone or dess_cartilage or both",
            where=path,
            todo="np.savez_compressed(path, dess_bone=..., dess_affine=...).",
            reason=Reason.GRID_MISMATCH if found else Reason.UNREADABLE_FILE,
        )
    labels = np.zeros(found[0].shape, np.uint8)
    tissues: dict[int, str] = {}
    for name, flags, start in (
        ("dess_bone", BONE, 0), ("dess_cartilage", CARTILAGE, _CARTILAGE_FROM),
    ):  # fmt: skip
        if name not in arrays:
            continue
        given = arrays[name]
        strange = np.setdiff1d(given, list(flags.values()))
        if strange.size:
            raise unknown_label({int(n): int((given == n).sum()) for n in strange},
                           ", ".join(f"{v} {k}" for k, v in flags.items()), f"{path}, {name}",
                           "Write 0 for background, or leave the array out.")  # fmt: skip
        if both := int(((labels > 0) & (given > 0)).sum()):
            raise InputError(
                f"{both:,} voxels that are bone and cartilage",
                expected="one of them",
                where=path,
                todo="Import this file by `qmri-lake ingest --masks`, which keeps both.",
                reason=Reason.UNREADABLE_VALUE,
            )
        labels[given > 0] = given[given > 0] + start
        tissues |= {value + start: name for name, value in flags.items() if value}
    return Content(labels, affine, tissues=tissues)


def _hdf5(path: str, grid: Grid | None) -> Content:
    import h5py  # type: ignore[import-untyped]

    with h5py.File(path) as file:
        channels = file["data"][()] if isinstance(file.get("data"), h5py.Dataset) else None
    if channels is None or channels.ndim != 4:
        raise InputError(
            "no dataset `data`" if channels is None else f"`data` of shape {channels.shape}",
            expected="`data` (rows, columns, slices, channels) of 0 and 1",
            where=path,
            todo="Give the .seg files of the challenge, not its .im images.",
            reason=Reason.UNREADABLE_FILE,
        )
    number = np.zeros(channels.shape[:3], np.uint8)
    count = np.zeros(channels.shape[:3], np.uint8)
    for channel in reversed(range(channels.shape[3])):  # the first one that a voxel is in stays [A]
        inside = channels[..., channel] == 1
        strange = channels[..., channel][~inside & (channels[..., channel] != 0)]
        if strange.size:
            raise InputError(
                f"the value {strange[0]} in a channel",
                expected="0 and 1",
                where=path,
                todo="Threshold probabilities first.",
                reason=Reason.UNREADABLE_VALUE,
            )
        number[inside] = channel + 1
        count += inside
    return Content(number.transpose(2, 0, 1), None, notes=_shared(int((count > 1).sum())))


def _mat(path: str, grid: Grid | None) -> Content:
    assert grid is not None  # read_content has refused the rest
    labels, shared = read_contours(path, *grid.shape[1:])
    notes = _shared(shared)
    check_shape(labels.shape, grid, path)
    # Which way the slices count is not documented: the anatomy says it, where it can.
    medial, lateral = (
        np.flatnonzero((labels == FIELDS[name]).any(axis=(1, 2)))
        for name in ("MedialTibialCartilage", "LateralTibialCartilage")
    )
    if medial.size and lateral.size and grid.knee:
        # LPS: x grows to the left of the patient, which is medial for a right knee.
        outward = grid.affine[0, 0] * (1 if grid.knee == "left" else -1)
        if (lateral.mean() - medial.mean()) * outward < 0:
            labels = labels[::-1]
            notes.append("slices in reverse: so the lateral tibial cartilage lies laterally")
    else:
        notes.append("slices in the exam's order: nothing in the file says which way they count")
    return Content(labels, None, FIELDS, notes=notes)


SUFFIXES: Mapping[str, Callable[[str, Grid | None], Content]] = {
    ".nii.gz": _nifti, ".nii": _nifti, ".nrrd": _nrrd, ".nhdr": _nrrd, ".npz": _npz,
    ".mat": _mat, ".seg": _hdf5, ".h5": _hdf5, ".hdf5": _hdf5,
}  # fmt: skip
"""Readers by suffix of the file."""

NEED_A_GRID = (".mat", ".seg", ".h5", ".hdf5")
"""Files that don't say where they lie."""


def _shared(count: int) -> list[str]:
    return [f"{counted(count, 'voxel')} of two tissues, given to the first"] if count else []


def check_shape(shape: tuple[int, ...], grid: Grid, path: str) -> None:
    """Refuse a mask of another shape than the exam's."""
    if shape != grid.shape:
        raise InputError(
            f"a mask of {' x '.join(map(str, shape))}",
            expected=f"{' x '.join(map(str, grid.shape))}, as the exam's image",
            where=path,
            todo="Check that the mask belongs to this series.",
            reason=Reason.GRID_MISMATCH,
        )
