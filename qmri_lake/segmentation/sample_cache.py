"""Volumes as a network sees them: planned, prepared once, and kept on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.distance_maps import distance_maps
from qmri_lake.segmentation.offline import COPIES, COPY_NAMES, copy_of
from qmri_lake.segmentation.recipes import Recipe
from qmri_lake.segmentation.room import told_when_full
from qmri_lake.segmentation.vnet import padding
from qmri_lake.steps import read_exam
from qmri_lake.tissues import NO_MASK

if TYPE_CHECKING:
    import xarray as xr

    from qmri_lake.lake import Lake

__all__ = ["PHI_STEPS", "Plan", "Sample", "SampleCache"]

PHI_STEPS = 255
"""phi is kept in steps of 1/255: a weight between 1 and 2 needs no more, and disks are finite."""
_SAMPLES_VERSION = 3
"""Raise it when the same exam and recipe give another sample: when the code of frames, distance
maps, copies (offline, deformation, artefacts) or of these files changes what it returns. Older
samples are found no more then, and made anew."""
_ABANDONED = 24 * 3600
"""Seconds after which a half-written sample is nobody's any more."""


@dataclass(frozen=True)
class Sample:
    """One volume as a network sees it, on disk; arrays are read when they are asked for.

    Parameters
    ----------
    folder : Path
        Holds ``image.npy`` (slice, row, column) float32, ``labels.npy`` the same uint8,
        ``phi.npy`` (class, slice, row, column) uint8, in steps of 1/255, and ``counts.npy``
        (class,), voxels.
    spacing : (3,)
        mm along the axes.
    """

    folder: Path
    spacing: tuple[float, float, float]

    def open(self) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image, labels and phi as memory maps: a slice costs no more than a slice."""
        image, labels, phi = (
            np.load(self.folder / f"{name}.npy", mmap_mode="r")
            for name in ("image", "labels", "phi")
        )
        return image, labels, phi

    def counts(self) -> NDArray[np.int64]:
        """Return the number of voxels of each class."""
        found: NDArray[np.int64] = np.load(self.folder / "counts.npy")
        return found


@dataclass(frozen=True)
class Plan:
    """The samples of an exam, on disk or to be made.

    Parameters
    ----------
    exam : str
    samples : tuple of Sample
        The exam's own, then its copies.
    lacking : tuple of str
        Classes of which the exam's labels have no voxel, as the network sees them.
    sample_bytes : int
        Size of each sample on disk.
    """

    exam: str
    samples: tuple[Sample, ...]
    lacking: tuple[str, ...]
    sample_bytes: int

    @property
    def missing_bytes(self) -> int:
        """What is still to be written."""
        return self.sample_bytes * sum(not sample.folder.is_dir() for sample in self.samples)


@dataclass(frozen=True)
class SampleCache:
    """Where the volumes that one recipe learns from are kept.

    A volume is found again by what it was made of, so that members and later trainings share it.

    Parameters
    ----------
    lake : Lake
    recipe : Recipe
    target : str
        The label array of group ``dess`` to learn.
    folder : Path
        A folder a sample.
    seed : int
        Of the copies; the same one lets members share them.
    """

    lake: Lake
    recipe: Recipe
    target: str
    folder: Path
    seed: int = 0

    def plan(self, exam: str, copies: int = 0) -> Plan:
        """Find the samples of an exam, or say what is wrong with its labels; write nothing.

        Raises
        ------
        InputError
            An exam without image or without these labels, labels of another kind, or a volume
            that is too small for the network.
        """
        if not 0 <= copies <= COPIES:
            raise InputError(f"{copies} copies", expected=f"0 to {COPIES}", where=self.recipe.name)
        ds = self._read(exam, "digest", "affine", self.target)
        labels, affine, knee = self._of(ds, exam)
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
            made_of = json.dumps({**key, **copy}, sort_keys=True)
            name = hashlib.sha256(made_of.encode()).hexdigest()[:20]
            samples.append(Sample(self.folder / f"{exam}-{name}", (a * i, b * j, c * k)))
        if samples[0].folder.is_dir():
            present = set(np.flatnonzero(samples[0].counts()).tolist())
        else:
            present = set(np.unique(recipe.frame.labels(labels, affine, knee)).tolist())
        return Plan(
            exam,
            tuple(samples),
            tuple(name for name, value in recipe.labels.items() if value not in present),
            # image float32, labels uint8, phi of each class uint8
            prod(size) * (4 + 1 + len(recipe.labels)),
        )

    def make(self, plan: Plan) -> None:
        """Write the samples of a plan that are not there; wait for another member that does."""
        if not plan.missing_bytes:
            return
        with told_when_full(self.folder, "prepared volumes"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{plan.exam}.lock"):
                self._write_missing(plan)

    def _write_missing(self, plan: Plan) -> None:
        ds = self._read(plan.exam, "image", "affine", self.target)
        labels, affine, knee = self._of(ds, plan.exam)
        image, frame = _image(ds, plan.exam), self.recipe.frame
        own = [self.seed, *hashlib.sha256(plan.exam.encode()).digest()[:4]]
        for number, sample in enumerate(plan.samples):
            if sample.folder.is_dir():
                continue
            seen, mask = image, labels
            if number:
                seen, mask, _ = copy_of(image, labels, _spacing(affine), number - 1, seed=own)
            _write(
                sample,
                frame.image(seen, affine, knee),
                frame.labels(mask, affine, knee),
                len(self.recipe.labels),
                flat=self.recipe.architecture.rank == 2,
            )

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {exam: row for row, exam in enumerate(self.lake.exams["exam"])}

    def _read(self, exam: str, *names: str) -> xr.Dataset:
        """Read those variables that the lake has, of one exam: members read all exams again."""
        stored = [name for name in names if name in self.lake.root["dess"]]
        return read_exam(self.lake.root, "dess", stored, self._rows[exam])

    def _of(self, ds: xr.Dataset, exam: str) -> tuple[NDArray[Any], NDArray[np.float64], str]:
        """Return labels, affine and knee."""
        labels = _labels(ds, exam, self.recipe, self.target)
        return labels, ds["affine"].values, str(ds["knee"].item())


def _spacing(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    a, b, c = (float(step) for step in np.linalg.norm(affine[:3, :3], axis=0))
    return a, b, c


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _labels(ds: xr.Dataset, exam: str, recipe: Recipe, target: str) -> NDArray[Any]:
    """Return the labels to learn, or say what is wrong with them."""
    labels: NDArray[Any] | None = ds[target].values if target in ds else None
    if labels is None or not labels.size or (labels == NO_MASK).all():
        raise InputError(
            f"no dess/{target}",
            expected="labels to learn from",
            where=exam,
            todo=f"Import them, qmri-lake ingest-masks ... --as reference, or choose exams that "
            f"have them: cohort.require('dess/{target}').",
            reason=Reason.ABSENT_EXAM,
        )
    known = set(recipe.labels.values())
    if unknown := sorted(set(np.unique(labels).tolist()) - known):
        raise InputError(
            f"label {unknown[0]} in dess/{target}",
            expected=f"0 to {max(known)}: {', '.join(recipe.labels)}",
            where=exam,
            todo="Import the labels again; 255 means that nobody looked there.",
            reason=Reason.UNKNOWN_LABEL,
        )
    return labels


def _image(ds: xr.Dataset, exam: str) -> NDArray[np.float32]:
    image: NDArray[np.float32] | None = ds["image"].values if "image" in ds else None
    if image is None or not np.isfinite(image).any():
        raise InputError(
            "no dess/image",
            expected="an image to learn from",
            where=exam,
            todo="Ingest it, or choose exams that have one: cohort.require('dess/image').",
            reason=Reason.ABSENT_EXAM,
        )
    return image


def _write(
    sample: Sample,
    image: NDArray[np.float32],
    labels: NDArray[Any],
    classes: int,
    *,
    flat: bool,
) -> None:
    """Write a sample: whole, or not at all."""
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
        # Where another member was faster, its sample is the same.
        if not (isinstance(error, OSError) and folder.is_dir()):
            raise


def _save(path: Path, array: NDArray[Any]) -> None:
    """Save an array as NumPy does, but for the reason when it can't.

    `numpy.save` writes past Python, and its error for a full disk has no number.
    """
    array = np.ascontiguousarray(array)
    with open(path, "wb") as stream:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(array.data)


def _clean(folder: Path) -> None:
    """Remove what killed trainings left of this sample, and nothing that is being written."""
    for part in folder.parent.glob(f"{folder.name}.*.part"):
        try:
            if time.time() - part.stat().st_mtime > _ABANDONED:
                shutil.rmtree(part)
        except FileNotFoundError:
            pass  # another member cleans too, or has finished
