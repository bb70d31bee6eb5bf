"""Cache of prepared volumes on disk: inputs and targets of a network, computed once."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.disk_full import disk_full_errors
from qmri_lake.core.geometry import voxel_spacing
from qmri_lake.errors import InputError, Reason
from qmri_lake.execution.exam_io import read_exam
from qmri_lake.segmentation.augmentation.offline import COPIES, COPY_NAMES, copy_of
from qmri_lake.segmentation.models.distance_maps import distance_maps
from qmri_lake.segmentation.models.recipes import Recipe
from qmri_lake.segmentation.models.vnet import padding
from qmri_lake.tissues import NO_MASK

if TYPE_CHECKING:
    import xarray as xr

    from qmri_lake.lake.lake import Lake

__all__ = ["PHI_STEPS", "Sample", "SampleCache", "SamplePlan"]

PHI_STEPS = 255
"""phi is stored in steps of 1/255, which is precise enough for a weight between 1 and 2."""
_SAMPLES_VERSION = 3
"""Version of the samples. Increase it when the same exam and recipe give a different sample, that
is, when the results of the network view, the distance maps, the copies (offline, deformation,
artefacts) or this module change. Older samples are then ignored and computed again."""
_ABANDONED = 24 * 3600
"""Seconds after which an incomplete sample is removed; the process is assumed to have died."""


@dataclass(frozen=True)
class Sample:
    """One prepared volume on disk, on the grid of a network.

    Parameters
    ----------
    folder : Path
        Contains ``image.npy`` (slice, row, column) float32, ``labels.npy`` (slice, row, column)
        uint8, ``phi.npy`` (class, slice, row, column) uint8 in steps of 1/255, and ``counts.npy``
        (class,), the number of voxels of each class.
    spacing : (3,)
        Distance between voxel centres along the axes, mm.
    """

    folder: Path
    spacing: tuple[float, float, float]

    def open(self) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image, labels and phi as memory maps, so that single slices can be read."""
        image, labels, phi = (
            np.load(self.folder / f"{name}.npy", mmap_mode="r")
            for name in ("image", "labels", "phi")
        )
        return image, labels, phi

    def counts(self) -> NDArray[np.int64]:
        """Return the number of voxels of each class."""
        counts: NDArray[np.int64] = np.load(self.folder / "counts.npy")
        return counts


@dataclass(frozen=True)
class SamplePlan:
    """The samples of an exam, including those that are not on disk yet.

    Parameters
    ----------
    exam : str
    samples : tuple of Sample
        The sample of the exam itself, then its copies.
    lacking : tuple of str
        Classes without a voxel on the grid of the network.
    sample_bytes : int
        Size of each sample on disk.
    """

    exam: str
    samples: tuple[Sample, ...]
    lacking: tuple[str, ...]
    sample_bytes: int

    @property
    def missing_bytes(self) -> int:
        """Bytes of the samples that are not on disk yet."""
        return self.sample_bytes * sum(not sample.folder.is_dir() for sample in self.samples)


@dataclass(frozen=True)
class SampleCache:
    """Folder of the prepared volumes of one recipe.

    The name of a sample is a digest of its inputs, so that members and later trainings share it.

    Parameters
    ----------
    lake : Lake
    recipe : Recipe
    target : str
        The target label array of group ``dess``.
    folder : Path
        Contains one folder per sample.
    seed : int
        Random seed of the copies; members with the same seed share the copies.
    """

    lake: Lake
    recipe: Recipe
    target: str
    folder: Path
    seed: int = 0

    def plan(self, exam: str, copies: int = 0) -> SamplePlan:
        """Return the samples of an exam, after checking its labels; write nothing.

        Raises
        ------
        InputError
            If the exam has no image or no target labels, if the labels belong to another task, or
            if the volume is too small for the network.
        """
        if not 0 <= copies <= COPIES:
            raise InputError(f"{copies} copies", expected=f"0 to {COPIES}", where=self.recipe.name)
        ds = self._read(exam, "digest", "affine", self.target)
        labels, affine, knee = self._labels_and_geometry(ds, exam)
        recipe, spacing = self.recipe, _spacing(affine)
        size = recipe.frame.size(labels.shape)
        padding(size[3 - recipe.architecture.rank :], recipe.architecture.stride)
        digest = str(ds["digest"].values) if "digest" in ds else ""
        key = {
            "version": _SAMPLES_VERSION,
            "image": digest or _digest(_image(self._read(exam, "image"), exam)),
            "labels": _digest(labels),
            "affine": affine.tolist(),
            "knee": knee,
            "frame": asdict(recipe.frame),
            "classes": len(recipe.labels),
            "flat": recipe.architecture.rank == 2,
        }
        (a, b, c), (i, j, k) = spacing, recipe.frame.shrink
        samples = []
        for number in range(copies + 1):
            copy = {"copy": [COPY_NAMES[number - 1], number - 1, self.seed]} if number else {}
            inputs = json.dumps({**key, **copy}, sort_keys=True)
            name = hashlib.sha256(inputs.encode()).hexdigest()[:20]
            samples.append(Sample(self.folder / f"{exam}-{name}", (a * i, b * j, c * k)))
        if samples[0].folder.is_dir():
            present = set(np.flatnonzero(samples[0].counts()).tolist())
        else:
            present = set(np.unique(recipe.frame.transform_labels(labels, affine, knee)).tolist())
        return SamplePlan(
            exam,
            tuple(samples),
            tuple(name for name, value in recipe.labels.items() if value not in present),
            # image float32, labels uint8, phi of each class uint8
            prod(size) * (4 + 1 + len(recipe.labels)),
        )

    def make(self, plan: SamplePlan) -> None:
        """Write the missing samples of a plan; wait if another member is writing them."""
        if not plan.missing_bytes:
            return
        with disk_full_errors(self.folder, "prepared volumes"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{plan.exam}.lock"):
                self._write_missing(plan)

    def _write_missing(self, plan: SamplePlan) -> None:
        ds = self._read(plan.exam, "image", "affine", self.target)
        labels, affine, knee = self._labels_and_geometry(ds, plan.exam)
        image, frame = _image(ds, plan.exam), self.recipe.frame
        seed = [self.seed, *hashlib.sha256(plan.exam.encode()).digest()[:4]]
        for number, sample in enumerate(plan.samples):
            if sample.folder.is_dir():
                continue
            new_image, new_labels = image, labels
            if number:
                new_image, new_labels, _ = copy_of(
                    image, labels, _spacing(affine), number - 1, seed=seed
                )
            _write(
                sample,
                frame.transform(new_image, affine, knee),
                frame.transform_labels(new_labels, affine, knee),
                len(self.recipe.labels),
                flat=self.recipe.architecture.rank == 2,
            )

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {exam: row for row, exam in enumerate(self.lake.exams["exam"])}

    def _read(self, exam: str, *names: str) -> xr.Dataset:
        """Read the given variables of one exam; skip variables that the lake does not have."""
        stored = [name for name in names if name in self.lake.root["dess"]]
        return read_exam(self.lake.root, "dess", stored, self._rows[exam])

    def _labels_and_geometry(
        self, ds: xr.Dataset, exam: str
    ) -> tuple[Values, NDArray[np.float64], str]:
        """Return labels, affine and knee."""
        labels = _labels(ds, exam, self.recipe, self.target)
        return labels, ds["affine"].values, str(ds["knee"].item())


def _spacing(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    a, b, c = (float(step) for step in voxel_spacing(affine))
    return a, b, c


def _digest(array: Values) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _labels(ds: xr.Dataset, exam: str, recipe: Recipe, target: str) -> Values:
    """Return the target labels, after checking them."""
    labels: Values | None = ds[target].values if target in ds else None
    if labels is None or not labels.size or (labels == NO_MASK).all():
        raise InputError(
            f"no dess/{target}",
            expected="labels to train on",
            where=exam,
            todo=f"Import them with qmri-lake ingest-masks ... --as reference, or choose exams "
            f"that have them: cohort.require('dess/{target}').",
            reason=Reason.ABSENT_EXAM,
        )
    known = set(recipe.labels.values())
    if unknown := sorted(set(np.unique(labels).tolist()) - known):
        raise InputError(
            f"label {unknown[0]} in dess/{target}",
            expected=f"0 to {max(known)}: {', '.join(recipe.labels)}",
            where=exam,
            todo="Import the labels again; label 255 means that the voxel was not segmented.",
            reason=Reason.UNKNOWN_LABEL,
        )
    return labels


def _image(ds: xr.Dataset, exam: str) -> NDArray[np.float32]:
    image: NDArray[np.float32] | None = ds["image"].values if "image" in ds else None
    if image is None or not np.isfinite(image).any():
        raise InputError(
            "no dess/image",
            expected="an image to train on",
            where=exam,
            todo="Ingest an image, or choose exams that have one: cohort.require('dess/image').",
            reason=Reason.ABSENT_EXAM,
        )
    return image


def _write(
    sample: Sample,
    image: NDArray[np.float32],
    labels: Values,
    classes: int,
    *,
    flat: bool,
) -> None:
    """Write a sample, completely or not at all."""
    spacing, folder = sample.spacing, sample.folder
    if flat:
        phi = np.stack([distance_maps(s, classes, spacing[1:]) for s in labels], axis=1)
    else:
        phi = distance_maps(labels, classes, spacing)
    _clean(folder)
    part = folder.with_name(f"{folder.name}.{uuid4().hex[:12]}.part")
    try:
        part.mkdir(parents=True)
        _save(part / "image.npy", image)
        _save(part / "labels.npy", labels.astype(np.uint8, copy=False))
        _save(part / "phi.npy", np.rint(phi * PHI_STEPS).astype(np.uint8))
        _save(part / "counts.npy", np.bincount(labels.ravel(), minlength=classes))
        part.rename(folder)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        # If another member has written the sample first, both samples are the same.
        if not (isinstance(error, OSError) and folder.is_dir()):
            raise


def _save(path: Path, array: Values) -> None:
    """Save an array in NumPy's format, so that a full disk raises an OSError with its errno.

    `numpy.save` does not write through Python's file object, and its error for a full disk has no
    errno.
    """
    array = np.ascontiguousarray(array)
    with open(path, "wb") as stream:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(array.data)


def _clean(folder: Path) -> None:
    """Remove old incomplete copies of this sample; recent copies may be in use."""
    for part in folder.parent.glob(f"{folder.name}.*.part"):
        try:
            if time.time() - part.stat().st_mtime > _ABANDONED:
                shutil.rmtree(part)
        except FileNotFoundError:
            pass  # another member has removed or finished it
