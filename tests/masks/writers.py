"""Exams as arrays, and their masks in the formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk
from scipy.io import savemat

from qmri_lake.lake import Lake, create_lake
from qmri_lake.masks.contours import FIELDS
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, append_exams, declare
from tests.fixtures import keys

SHAPE = (6, 9, 8)
OAI_ZIB = (1, 2, 3, 4)


def affine_of(knee: str) -> np.ndarray:
    """An oblique sagittal grid: 12 degrees about the body's axis, the other way for a left knee."""
    angle = np.deg2rad(12 if knee == "right" else -12)
    sine, cosine = np.sin(angle), np.cos(angle)
    affine = np.eye(4)
    affine[:3, 0] = 0.7 * np.array([-cosine, -sine, 0])
    affine[:3, 1] = 0.36 * np.array([0, 0, -1])
    affine[:3, 2] = 0.37 * np.array([-sine, cosine, 0])
    affine[:3, 3] = (-6.65 if knee == "right" else 40.0), -77.4, 70.0
    return affine


def dess_lake(path: Path, count: int = 4, shape: tuple[int, int, int] = SHAPE) -> Lake:
    """A lake of DESS images: 9000001 and more, right and left, at 0 and 24 months."""
    lake = create_lake(str(path))
    exams = keys(count)

    def build(session: Any) -> None:
        append_exams(session, exams)
        root = open_root(session.store, "r+")
        declare(root, REGISTRY.variables_of("ingest_dess"), sizes_of("dess", shape))
        change = Transaction(runs={1: {"step": "ingest", "parameters": {}, "version": "1"}})
        for row, knee in enumerate(exams["knee"]):
            root["dess/image"][row] = np.full(shape, row, np.float32)
            change.set_small("dess/extent", row, np.array(shape))
            change.set_small("dess/affine", row, affine_of(knee))
            change.set_state("ingest_dess", row, "done", 1)
        change(session)

    commit(lake.repo, build, "Add exams")
    return lake.refresh()


def label_map(
    seed: int = 0, numbers: tuple[int, ...] = OAI_ZIB, shape: tuple[int, int, int] = SHAPE
) -> np.ndarray:
    """Labels without symmetry, containing every number."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 0, *numbers], shape).astype(np.uint8)
    labels.flat[: len(numbers)] = numbers
    return labels


def turned(
    labels: np.ndarray, affine: np.ndarray, axes: tuple[int, ...], flips: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The same mask with its axes in another order, some of them backwards."""
    turn = np.eye(4)[:, [*axes, 3]]
    other = labels.transpose(axes)
    for axis in flips:
        back = np.eye(4)
        back[axis, axis], back[axis, 3] = -1, other.shape[axis] - 1
        other, turn = np.flip(other, axis), turn @ back
    return np.ascontiguousarray(other), affine @ turn


def write_nifti(path: Path, labels: np.ndarray, affine: np.ndarray, dtype: str = "uint8") -> Path:
    ras = np.diag([-1, -1, 1, 1]) @ affine
    nibabel.save(nibabel.Nifti1Image(labels.astype(dtype), ras), path)
    return path


SPACES = {"left-posterior-superior": (1, 1, 1), "RAS": (-1, -1, 1), "LAS": (1, -1, 1)}


def write_nrrd(
    path: Path,
    labels: np.ndarray,
    affine: np.ndarray,
    space: str = "left-posterior-superior",
    **header: Any,
) -> Path:
    moved = np.diag([*SPACES[space], 1]) @ affine
    fields = {"space": space, "space directions": moved[:3, :3].T, "space origin": moved[:3, 3]}
    nrrd.write(str(path), labels, {**fields, **header})
    return path


def write_meta_image(
    path: Path, labels: np.ndarray, affine: np.ndarray, *, packed: bool = True
) -> Path:
    """A file of ITK; .mhd has its values in a file beside it."""
    image = sitk.GetImageFromArray(labels.transpose(2, 1, 0))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=packed)
    return path


CROP = ((1, 5), (2, 8), (3, 7))
"""Voxels of each axis that `write_crop` keeps."""


def cropped(labels: np.ndarray) -> np.ndarray:
    """The labels inside the crop; background elsewhere."""
    box = tuple(slice(*bounds) for bounds in CROP)
    kept = np.zeros_like(labels)
    kept[box] = labels[box]
    return kept


def write_crop(
    path: Path, labels: np.ndarray, affine: np.ndarray, space: str = "RAS", **header: Any
) -> Path:
    """A segmentation of 3D Slicer that has only the voxels of a box, at their position."""
    box = tuple(slice(*bounds) for bounds in CROP)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [low for low, _ in CROP]
    offset = " ".join(str(low) for low, _ in CROP)
    return write_nrrd(
        path,
        labels[box],
        moved,
        space,
        **{"Segmentation_ReferenceImageExtentOffset": offset, **header},
    )


def write_iwoai(path: Path, labels: np.ndarray) -> Path:
    """Six binary channels (rows, columns, slices, channel)."""
    channels = np.stack([labels == number for number in range(1, 7)], axis=-1)
    with h5py.File(path, "w") as file:
        file["data"] = channels.transpose(1, 2, 0, 3).astype(np.uint8)
    return path


def write_imorphics(path: Path, labels: np.ndarray) -> Path:
    """One rectangle for each run of voxels of a row; y from the bottom edge."""
    rows = labels.shape[1]
    structs = np.empty((1, len(labels)), dtype=[(name, object) for name in FIELDS])
    for index, one in enumerate(labels):
        for name, number in FIELDS.items():
            contours = []
            for row in range(rows):
                edges = np.flatnonzero(np.diff(np.r_[0, one[row] == number, 0]))
                for left, right in zip(edges[::2], edges[1::2], strict=True):
                    bottom, top = rows - row - 1, rows - row
                    box = [(left, bottom), (right, bottom), (right, top), (left, top)]
                    contours.append(np.array(box, float))
            cell = np.empty((1, len(contours)), dtype=object)
            cell[0, :] = contours
            structs[0, index][name] = cell if contours else np.zeros((0, 0))
    savemat(path, {"datastruct": structs})
    return path
